-- Appends a batch to one shard, first half: lock the head, then insert.
--
-- The head's row is locked before anything is numbered, so whoever holds it is the
-- only one who appends to this shard until the transaction ends.
with locked as (
    select position, recorded_at, hash from shard_head where shard = $1 for update
),
-- A second step, so that the clock is read after the lock was obtained.
head as materialized (
    select position, greatest(recorded_at, clock_timestamp()) as recorded_at, hash from locked
),
stored as (
    insert into event (shard, position, tenant, patient_id, type, vital, value, quality,
                       suspect, occurred_at, recorded_at, source_id, data)
    select $1, head.position + r.ordinal, r.tenant, r.patient_id, r.type, r.vital::vital, r.value, r.quality,
           r.suspect, r.occurred_at, head.recorded_at, r.source_id, r.data::json
    from head,
         unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::real[],
                $8::boolean[], $9::timestamptz[], $10::text[], $11::text[])
         with ordinality as r (tenant, patient_id, type, vital, value, quality,
                               suspect, occurred_at, source_id, data, ordinal)
    -- Also within the batch: the second of two equal readings meets the first.
    -- Never NOT EXISTS: its plan flips with the table's size.
    on conflict do nothing
    returning position
)
select head.position, head.recorded_at, head.hash, array(select position from stored) as stored
from head
