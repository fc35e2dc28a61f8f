-- follows: everything
-- pace: 500 ms
--
-- Folds shard $1, positions ($2, $3], which lie in the times [$4, $5].
-- Every column is a sum, a maximum, a minimum or a union: the order does not matter.
with hour as materialized (
    select tenant, patient_id, source_id as device_id,
           date_bin('1 hour', occurred_at, 'epoch'::timestamptz) as start,
           count(*) as readings, count(*) filter (where suspect) as suspects,
           bit_or(1::bigint << extract(minute from occurred_at at time zone 'UTC')::int) as minutes,
           min(recorded_at - occurred_at) as delay_min, max(recorded_at) as last_recorded,
           max(occurred_at) as last_seen
    from (
        -- "offset 0": found by position, then grouped. To group in an index's order, a plan
        -- read all of the month.
        select tenant, patient_id, source_id, occurred_at, recorded_at, suspect
        from event
        where shard = $1 and position > $2 and position <= $3
          and occurred_at >= $4 and occurred_at <= $5
          and type = 'reading'
        offset 0
    ) reading
    group by tenant, patient_id, source_id, 4
), by_hour as (
    insert into device_hour as d
           (shard, tenant, patient_id, device_id, start, readings, suspects, minutes, delay_min, last_recorded)
    select $1, tenant, patient_id, device_id, start, readings, suspects, minutes, delay_min, last_recorded
    from hour
    -- Of an archived month the log holds a few readings only: see carry.sql.
    where not exists (select from archived_month m where hour.start >= m.since and hour.start < m.until)
    on conflict (shard, tenant, patient_id, device_id, start) do update
       set readings = d.readings + excluded.readings, suspects = d.suspects + excluded.suspects,
           minutes = d.minutes | excluded.minutes,
           delay_min = least(d.delay_min, excluded.delay_min),
           last_recorded = greatest(d.last_recorded, excluded.last_recorded)
)
insert into device as d (shard, tenant, patient_id, device_id, last_seen)
select $1, tenant, patient_id, device_id, max(last_seen)
from hour
group by tenant, patient_id, device_id
on conflict (shard, tenant, patient_id, device_id) do update
   set last_seen = excluded.last_seen
 where excluded.last_seen > d.last_seen
