-- follows: everything
-- pace: 250 ms
--
-- Folds shard $1, positions ($2, $3], which lie in the times [$4, $5].
-- Reads the window once and sums it up to a row a minute and series; what each
-- table keeps is summed up from these, and added to what is there. Every column is a sum,
-- a maximum, a minimum or a union, so the order does not matter. A minute or hour of a
-- series that lost a reading is summed up anew, from the log.
with part as materialized (
    select series, date_bin('1 minute', occurred_at, 'epoch'::timestamptz) as start,
           count(*) as count, count(*) filter (where suspect) as suspects,
           min(value) as min, max(value) as max, sum(round(value * 1e6)::bigint) as sum_millionths,
           min(recorded_at - occurred_at) as delay_min, max(recorded_at) as last_recorded,
           max(occurred_at) as last_seen
    from (
        -- "offset 0": found by position, then grouped. To group in an index's order, a plan
        -- read all of the month.
        select series, occurred_at, recorded_at, value, suspect
        from reading
        where shard = $1 and position > $2 and position <= $3
          and occurred_at >= $4 and occurred_at <= $5 and rested(position)
        offset 0
    ) r
    -- The last has no order, so that this is always done by hashing: of a window's size the
    -- statistics know nothing, and sorting it took a third of the fold's time.
    group by series, 2, '0'::xid
), retracted as materialized (
    -- Almost always none. A retraction names its reading's series.
    select s.series, length, date_bin(length, n.occurred_at, 'epoch'::timestamptz) as start,
           -- Read here, so that a retraction that nobody can read is not passed over.
           (n.data ->> 'readingPosition')::bigint as position
    from non_reading n
    -- "offset 0", here and below: one look a row, whatever is known of the tables' sizes.
    left join lateral (
        select series from series
        where shard = $1 and tenant = n.tenant and patient_id = n.patient_id
          and vital = (n.data ->> 'vital')::vital and source_id = n.data ->> 'deviceId'
        offset 0
    ) s on true
    cross join (values (interval '1 minute'), ('1 hour')) of (length)
    where n.shard = $1 and n.position > $2 and n.position <= $3 and n.type = 'reading_retracted'
), again as materialized (
    select k.series, k.length, k.start, s.*
    from (select distinct series, length, start from retracted where series is not null) k
    cross join lateral (
        select count(*) as count, count(*) filter (where suspect) as suspects,
               min(value) as min, max(value) as max,
               sum(round(value * 1e6)::bigint) as sum_millionths
        from reading r
        where r.shard = $1 and r.series = k.series
          and r.occurred_at >= k.start and r.occurred_at < k.start + k.length and r.position <= $3
          -- A retraction lies at its reading's own time.
          and not exists (
              select from series s
              join non_reading x on x.shard = $1 and x.tenant = s.tenant and x.patient_id = s.patient_id
                                and x.occurred_at = r.occurred_at and x.position <= $3
              where s.shard = $1 and s.series = k.series and x.type = 'reading_retracted'
                and (x.data ->> 'readingPosition')::bigint = r.position
              offset 0)
    ) s
    where not exists (select from archived_month m where k.start >= m.since and k.start < m.until)
), gone_minute as (
    delete from series_minute b using again a
    where b.shard = $1 and b.series = a.series and b.start = a.start and a.length = '1 minute' and a.count = 0
), gone_hour as (
    delete from series_hour b using again a
    where b.shard = $1 and b.series = a.series and b.start = a.start and a.length = '1 hour' and a.count = 0
), changed_minute as (
    update series_minute b
       set count = a.count, suspects = a.suspects, min = a.min, max = a.max,
           sum_millionths = a.sum_millionths
      from again a
     where b.shard = $1 and b.series = a.series and b.start = a.start and a.length = '1 minute' and a.count > 0
    returning b.series, interval '1 minute' as length, b.start
), changed_hour as (
    update series_hour b
       set count = a.count, suspects = a.suspects, min = a.min, max = a.max,
           sum_millionths = a.sum_millionths
      from again a
     where b.shard = $1 and b.series = a.series and b.start = a.start and a.length = '1 hour' and a.count > 0
    returning b.series, interval '1 hour' as length, b.start
), bucket as materialized (
    select series, interval '1 minute' as length, start, count, suspects, min, max, sum_millionths
    from part
    union all
    select series, '1 hour', date_bin('1 hour', start, 'epoch'::timestamptz),
           sum(count)::bigint, sum(suspects)::bigint, min(min), max(max), sum(sum_millionths)
    from part
    group by series, 3
), new as materialized (
    select * from bucket
    where not exists (select from retracted r
                      where (r.series, r.length, r.start) = (bucket.series, bucket.length, bucket.start))
      -- Of an archived month the log holds a few readings only: see carry.sql.
      and not exists (select from archived_month m
                      where bucket.start >= m.since and bucket.start < m.until)
    union all
    -- Read and lost within this window.
    select * from again a
    where count > 0
      and not exists (select from (table changed_minute union all table changed_hour) c
                      where (c.series, c.length, c.start) = (a.series, a.length, a.start))
), by_minute as (
    insert into series_minute as b
           (shard, series, start, count, suspects, min, max, sum_millionths)
    select $1, series, start, count, suspects, min, max, sum_millionths
    from new where length = '1 minute'
    on conflict (shard, series, start) do update
       set count = b.count + excluded.count, suspects = b.suspects + excluded.suspects,
           min = least(b.min, excluded.min), max = greatest(b.max, excluded.max),
           sum_millionths = b.sum_millionths + excluded.sum_millionths
), by_hour as (
    insert into series_hour as b
           (shard, series, start, count, suspects, min, max, sum_millionths)
    select $1, series, start, count, suspects, min, max, sum_millionths
    from new where length = '1 hour'
    on conflict (shard, series, start) do update
       set count = b.count + excluded.count, suspects = b.suspects + excluded.suspects,
           min = least(b.min, excluded.min), max = greatest(b.max, excluded.max),
           sum_millionths = b.sum_millionths + excluded.sum_millionths
), hour as materialized (
    select s.tenant, s.patient_id, s.source_id as device_id,
           date_bin('1 hour', start, 'epoch'::timestamptz) as start,
           sum(count)::bigint as readings, sum(suspects)::bigint as suspects,
           bit_or(1::bigint << date_part('minute', start at time zone 'UTC')::int) as minutes,
           min(delay_min) as delay_min, max(last_recorded) as last_recorded,
           max(last_seen) as last_seen
    from part p
    cross join lateral (
        select tenant, patient_id, source_id from series where shard = $1 and series = p.series offset 0
    ) s
    group by s.tenant, s.patient_id, s.source_id, 4
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
