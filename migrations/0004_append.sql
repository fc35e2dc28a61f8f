-- The append as one function, so that a batch is one round trip and one commit.
-- Locks: log_commit is locked for a moment; its new column does not rewrite it.

-- What a commit's hash covers: 1, its rows' fields; 2, its rows' positions and digests.
alter table log_commit add column format smallint not null default 1;
alter table log_commit alter column format set default 2;

-- Appends a batch to one shard: lock the head, insert, chain, move the head.
--
-- The head's row is locked before anything is numbered, so whoever holds it is the
-- only one who appends to this shard until its transaction ends. A function and not
-- one statement, so that what follows the lock sees what the last one committed.
--
-- digests: 32 bytes a row, one after the other: the SHA-256 of the row's fields
-- (src/log/chain.rs). careful: duplicates are to be expected. stored: the positions
-- that are new, or null if all are. No row when there is no such shard.
create function append_events(
    in_shard smallint, tenants text[], patient_ids text[], types text[], vitals text[],
    vital_values float8[], qualities real[], suspects boolean[], occurred timestamptz[],
    source_ids text[], datas text[], digests bytea, careful boolean,
    out head bigint, out recorded timestamptz, out stored bigint[]
) returns setof record language plpgsql as $$
declare
    previous bytea;
    count_new integer := cardinality(tenants);
    first_new bigint;
    last_new bigint;
    since timestamptz;
    until timestamptz;
    positions bytea := '';
begin
    select h.position, h.recorded_at, h.hash into head, recorded, previous
    from shard_head h where h.shard = in_shard for update;
    if not found then
        return;
    end if;
    -- Read after the lock was obtained: never before what was recorded last.
    recorded := greatest(recorded, clock_timestamp());

    -- Almost always everything is new, and then a plain insert costs a third less
    -- than one that may meet a conflict in every row.
    if not careful then
        begin
            insert into event (shard, position, tenant, patient_id, type, vital, value, quality,
                               suspect, occurred_at, recorded_at, source_id, data)
            select in_shard, head + r.ordinal, r.tenant, r.patient_id, r.type, r.vital::vital,
                   r.value, r.quality, r.suspect, r.occurred_at, recorded, r.source_id, r.data::json
            from unnest(tenants, patient_ids, types, vitals, vital_values, qualities, suspects,
                        occurred, source_ids, datas)
                 with ordinality as r (tenant, patient_id, type, vital, value, quality, suspect,
                                       occurred_at, source_id, data, ordinal);
            first_new := head + 1;
            last_new := head + count_new;
            select min(t), max(t) into since, until from unnest(occurred) t;
        exception when unique_violation then
            careful := true;
        end;
    end if;
    if careful then
        with new as (
            insert into event (shard, position, tenant, patient_id, type, vital, value, quality,
                               suspect, occurred_at, recorded_at, source_id, data)
            select in_shard, head + r.ordinal, r.tenant, r.patient_id, r.type, r.vital::vital,
                   r.value, r.quality, r.suspect, r.occurred_at, recorded, r.source_id, r.data::json
            from unnest(tenants, patient_ids, types, vitals, vital_values, qualities, suspects,
                        occurred, source_ids, datas)
                 with ordinality as r (tenant, patient_id, type, vital, value, quality, suspect,
                                       occurred_at, source_id, data, ordinal)
            -- Also within the batch: the second of two equal readings meets the first.
            -- Never NOT EXISTS: its plan flips with the table's size.
            on conflict do nothing
            returning position, occurred_at
        )
        select count(*), min(position), max(position), min(occurred_at), max(occurred_at),
               coalesce(array_agg(position order by position), '{}'),
               string_agg(int8send(position), '' order by position),
               string_agg(substring(digests from (32 * (position - head) - 31)::integer for 32),
                          '' order by position)
        into count_new, first_new, last_new, since, until, stored, positions, digests
        from new;
    end if;

    if count_new > 0 then
        -- Positions that follow each other are told by the first and the last.
        if last_new - first_new + 1 = count_new then
            positions := '';
        end if;
        digests := sha256(previous || int2send(in_shard)
                          || int8send((extract(epoch from recorded) * 1000000)::bigint)
                          || int8send(first_new) || int8send(last_new) || positions || digests);
        insert into log_commit (shard, position_from, position_to, events,
                                occurred_min, occurred_max, recorded_at, hash)
        values (in_shard, first_new, last_new, count_new, since, until, recorded, digests);
        update shard_head h set position = last_new, recorded_at = recorded, hash = digests
        where h.shard = in_shard;
    end if;
    return next;
end
$$;
