-- Readings of one vital in [$5, $6) in buckets of $7 seconds, counted from 1970, without
-- what was retracted.
with retracted as materialized (
    -- At the readings' own times. Almost always none.
    select (data ->> 'readingPosition')::bigint as position
    from non_reading
    where shard = $1 and tenant = $2 and patient_id = $3
      and occurred_at >= $5 and occurred_at < $6 and type = 'reading_retracted'
)
select date_bin(make_interval(secs => $7), occurred_at, 'epoch'::timestamptz) as start,
       min(value) as min, max(value) as max,
       -- Millionths, as they are folded: whole numbers add up to the same in any order.
       (sum(round(value * 1e6)::bigint) / count(*) / 1000000)::float8 as avg, count(*) as count
from series s
join reading r on r.shard = $1 and r.series = s.series and occurred_at >= $5 and occurred_at < $6
where s.shard = $1 and s.tenant = $2 and s.patient_id = $3 and s.vital = $4::text::vital
  and ($8::text is null or s.source_id = $8)
  and not exists (select from retracted where position = r.position)
group by 1
order by 1
limit $9
