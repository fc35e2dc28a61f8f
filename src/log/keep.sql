-- Copies into {thin} the readings that must stay when {table} is archived, up to position $2
-- of each shard $1:
--   of each series the newest one that was not retracted: the present, and every moment after
--   this month, is made of these, also for a token of one device;
--   every one that was retracted: it counted until then;
--   of each patient the one that was recorded first: since when they are known.
with upto as (
    select * from unnest($1::smallint[], $2::bigint[]) as u (shard, position)
), reading as (
    select r.shard, r.position, r.series, r.occurred_at
    from {table} r
    join upto u on r.shard = u.shard and r.position <= u.position
), retracted as (
    -- At the reading's own time.
    select n.shard, (n.data ->> 'readingPosition')::bigint as position
    from non_reading n
    join upto u on n.shard = u.shard and n.position <= u.position
    where n.type = 'reading_retracted'
), newest as (
    -- The natural key: there is one such reading.
    select shard, series, max(occurred_at) as occurred_at
    from reading
    where not exists (select from retracted x
                      where x.shard = reading.shard and x.position = reading.position)
    group by shard, series
), kept as (
    select r.shard, r.position
    from newest n
    join {table} r on r.shard = n.shard and r.series = n.series and r.occurred_at = n.occurred_at
    union
    select r.shard, r.position from reading r join retracted x using (shard, position)
    union
    select shard, min(first)
    from (select shard, series, min(position) as first from reading group by shard, series) f
    join series s using (shard, series)
    group by shard, s.tenant, s.patient_id
)
insert into {thin}
select r.* from kept k join {table} r on r.shard = k.shard and r.position = k.position
