-- follows: everything
-- pace: 250 ms
--
-- Folds shard $1, positions ($2, $3], which lie in the times [$4, $5].
-- Reads the window once and sums it up to a row a minute, vital and device; what each
-- table keeps is summed up from these, and added to what is there. Every column is a sum,
-- a maximum, a minimum or a union, so the order does not matter. A minute or hour of a
-- vital that lost a reading is summed up anew, from the log.
with part as materialized (
    select tenant, patient_id, source_id as device_id, vital,
           date_bin('1 minute', occurred_at, 'epoch'::timestamptz) as start,
           count(*) as count, count(*) filter (where suspect) as suspects,
           min(value) as min, max(value) as max, sum(round(value * 1e6)::bigint) as sum_millionths,
           min(recorded_at - occurred_at) as delay_min, max(recorded_at) as last_recorded,
           max(occurred_at) as last_seen
    from (
        -- "offset 0": found by position, then grouped. To group in an index's order, a plan
        -- read all of the month.
        select tenant, patient_id, source_id, vital, occurred_at, recorded_at, value, suspect
        from event
        where shard = $1 and position > $2 and position <= $3
          and occurred_at >= $4 and occurred_at <= $5
          and type = 'reading' and rested(position)
        offset 0
    ) reading
    -- The last has no order, so that this is always done by hashing: of a window's size the
    -- statistics know nothing, and sorting it by five columns took a third of the fold's time.
    group by tenant, patient_id, source_id, vital, 5, '0'::xid
), retracted as materialized (
    -- Almost always none, and found by the index of what is no reading.
    select distinct tenant, patient_id, (data ->> 'vital')::vital as vital, length,
           date_bin(length, occurred_at, 'epoch'::timestamptz) as start
    from event cross join (values (interval '1 minute'), ('1 hour')) of (length)
    where shard = $1 and position > $2 and position <= $3
      and occurred_at >= $4 and occurred_at <= $5
      and type <> 'reading' and type = 'reading_retracted'
), again as materialized (
    select k.tenant, k.patient_id, k.vital, k.length, k.start, s.*
    from retracted k
    cross join lateral (
        select count(*) as count, count(*) filter (where suspect) as suspects,
               min(value) as min, max(value) as max,
               sum(round(value * 1e6)::bigint) as sum_millionths
        from event e
        where shard = $1 and tenant = k.tenant and patient_id = k.patient_id and vital = k.vital
          and occurred_at >= k.start and occurred_at < k.start + k.length
          and position <= $3 and type = 'reading'
          -- A retraction lies at its reading's own time.
          and not exists (
              select from event x
              where x.shard = $1 and x.tenant = k.tenant and x.patient_id = k.patient_id
                and x.vital is null and x.occurred_at = e.occurred_at and x.position <= $3
                and x.type = 'reading_retracted'
                and (x.data ->> 'readingPosition')::bigint = e.position
              offset 0)
    ) s
    where not exists (select from archived_month m where k.start >= m.since and k.start < m.until)
), gone_minute as (
    delete from vital_minute b using again a
    where b.shard = $1 and b.tenant = a.tenant and b.patient_id = a.patient_id
      and b.vital = a.vital and b.start = a.start and a.length = '1 minute' and a.count = 0
), gone_hour as (
    delete from vital_hour b using again a
    where b.shard = $1 and b.tenant = a.tenant and b.patient_id = a.patient_id
      and b.vital = a.vital and b.start = a.start and a.length = '1 hour' and a.count = 0
), changed_minute as (
    update vital_minute b
       set count = a.count, suspects = a.suspects, min = a.min, max = a.max,
           sum_millionths = a.sum_millionths
      from again a
     where b.shard = $1 and b.tenant = a.tenant and b.patient_id = a.patient_id
       and b.vital = a.vital and b.start = a.start and a.length = '1 minute' and a.count > 0
    returning b.tenant, b.patient_id, b.vital, interval '1 minute' as length, b.start
), changed_hour as (
    update vital_hour b
       set count = a.count, suspects = a.suspects, min = a.min, max = a.max,
           sum_millionths = a.sum_millionths
      from again a
     where b.shard = $1 and b.tenant = a.tenant and b.patient_id = a.patient_id
       and b.vital = a.vital and b.start = a.start and a.length = '1 hour' and a.count > 0
    returning b.tenant, b.patient_id, b.vital, interval '1 hour' as length, b.start
), bucket as materialized (
    select tenant, patient_id, vital, interval '1 minute' as length, start,
           sum(count)::bigint as count, sum(suspects)::bigint as suspects,
           min(min) as min, max(max) as max, sum(sum_millionths) as sum_millionths
    from part
    group by tenant, patient_id, vital, start
    union all
    select tenant, patient_id, vital, '1 hour', date_bin('1 hour', start, 'epoch'::timestamptz),
           sum(count)::bigint, sum(suspects)::bigint, min(min), max(max), sum(sum_millionths)
    from part
    group by tenant, patient_id, vital, 5
), new as materialized (
    select * from bucket
    where not exists (select from retracted r
                      where (r.tenant, r.patient_id, r.vital, r.length, r.start)
                          = (bucket.tenant, bucket.patient_id, bucket.vital, bucket.length, bucket.start))
      -- Of an archived month the log holds a few readings only: see carry.sql.
      and not exists (select from archived_month m
                      where bucket.start >= m.since and bucket.start < m.until)
    union all
    -- Read and lost within this window.
    select * from again a
    where count > 0
      and not exists (select from (table changed_minute union all table changed_hour) c
                      where (c.tenant, c.patient_id, c.vital, c.length, c.start)
                          = (a.tenant, a.patient_id, a.vital, a.length, a.start))
), by_minute as (
    insert into vital_minute as b
           (shard, tenant, patient_id, vital, start, count, suspects, min, max, sum_millionths)
    select $1, tenant, patient_id, vital, start, count, suspects, min, max, sum_millionths
    from new where length = '1 minute'
    on conflict (shard, tenant, patient_id, vital, start) do update
       set count = b.count + excluded.count, suspects = b.suspects + excluded.suspects,
           min = least(b.min, excluded.min), max = greatest(b.max, excluded.max),
           sum_millionths = b.sum_millionths + excluded.sum_millionths
), by_hour as (
    insert into vital_hour as b
           (shard, tenant, patient_id, vital, start, count, suspects, min, max, sum_millionths)
    select $1, tenant, patient_id, vital, start, count, suspects, min, max, sum_millionths
    from new where length = '1 hour'
    on conflict (shard, tenant, patient_id, vital, start) do update
       set count = b.count + excluded.count, suspects = b.suspects + excluded.suspects,
           min = least(b.min, excluded.min), max = greatest(b.max, excluded.max),
           sum_millionths = b.sum_millionths + excluded.sum_millionths
), hour as materialized (
    select tenant, patient_id, device_id, date_bin('1 hour', start, 'epoch'::timestamptz) as start,
           sum(count)::bigint as readings, sum(suspects)::bigint as suspects,
           bit_or(1::bigint << date_part('minute', start at time zone 'UTC')::int) as minutes,
           min(delay_min) as delay_min, max(last_recorded) as last_recorded,
           max(last_seen) as last_seen
    from part
    group by tenant, patient_id, device_id, 4
), by_device as (
    insert into device_hour as d
           (shard, tenant, patient_id, device_id, start, readings, suspects, minutes, delay_min, last_recorded)
    select $1, tenant, patient_id, device_id, start, readings, suspects, minutes, delay_min, last_recorded
    from hour
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
