-- follows: everything
-- pace: 250 ms
--
-- Folds shard $1, positions ($2, $3], which lie in the times [$4, $5].
-- Sums up to one row a minute first, then adds that to what is there. A minute that lost a
-- reading is summed up anew, from the log.
with retracted as materialized (
    -- Almost always none, and found by the index of what is no reading.
    select distinct tenant, patient_id, (data ->> 'vital')::vital as vital,
           date_bin('1 minute', occurred_at, 'epoch'::timestamptz) as start
    from event
    where shard = $1 and position > $2 and position <= $3
      and occurred_at >= $4 and occurred_at <= $5
      and type <> 'reading' and type = 'reading_retracted'
), again as materialized (
    select k.tenant, k.patient_id, k.vital, k.start, s.*
    from retracted k
    cross join lateral (
        select count(*) as count, count(*) filter (where suspect) as suspects,
               min(value) as min, max(value) as max,
               sum(round(value * 1e6)::bigint) as sum_millionths
        from event e
        where shard = $1 and tenant = k.tenant and patient_id = k.patient_id and vital = k.vital
          and occurred_at >= k.start and occurred_at < k.start + interval '1 minute'
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
), gone as (
    delete from vital_minute b using again a
    where b.shard = $1 and b.tenant = a.tenant and b.patient_id = a.patient_id
      and b.vital = a.vital and b.start = a.start and a.count = 0
), changed as (
    update vital_minute b
       set count = a.count, suspects = a.suspects, min = a.min, max = a.max,
           sum_millionths = a.sum_millionths
      from again a
     where b.shard = $1 and b.tenant = a.tenant and b.patient_id = a.patient_id
       and b.vital = a.vital and b.start = a.start and a.count > 0
), summed as (
    select tenant, patient_id, vital, date_bin('1 minute', occurred_at, 'epoch'::timestamptz) as start,
           count(*) as count, count(*) filter (where suspect) as suspects,
           min(value) as min, max(value) as max, sum(round(value * 1e6)::bigint) as sum_millionths
    from (
        -- "offset 0": found by position, then grouped. To group in an index's order, a plan
        -- read all of the month.
        select tenant, patient_id, vital, occurred_at, value, suspect
        from event
        where shard = $1 and position > $2 and position <= $3
          and occurred_at >= $4 and occurred_at <= $5
          and type = 'reading'
        offset 0
    ) reading
    group by tenant, patient_id, vital, 4
), new as (
    select * from summed
    where not exists (select from retracted r
                      where (r.tenant, r.patient_id, r.vital, r.start)
                          = (summed.tenant, summed.patient_id, summed.vital, summed.start))
      -- Of an archived month the log holds a few readings only: see carry.sql.
      and not exists (select from archived_month m
                      where summed.start >= m.since and summed.start < m.until)
    union all
    -- Read and lost within this window.
    select * from again a
    where count > 0
      and not exists (select from vital_minute b
                      where b.shard = $1 and b.tenant = a.tenant and b.patient_id = a.patient_id
                        and b.vital = a.vital and b.start = a.start)
)
insert into vital_minute as b
       (shard, tenant, patient_id, vital, start, count, suspects, min, max, sum_millionths)
select $1, n.* from new n
on conflict (shard, tenant, patient_id, vital, start) do update
   set count = b.count + excluded.count, suspects = b.suspects + excluded.suspects,
       min = least(b.min, excluded.min), max = greatest(b.max, excluded.max),
       sum_millionths = b.sum_millionths + excluded.sum_millionths
