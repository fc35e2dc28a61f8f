-- Readings in [$5, $6) of the vital $4, of one device only if $7 names it, in order,
-- without what was retracted.
with retracted as materialized (
    -- At the readings' own times. Almost always none.
    select (data ->> 'readingPosition')::bigint as position
    from non_reading
    where shard = $1 and tenant = $2 and patient_id = $3
      and occurred_at >= $5 and occurred_at < $6 and type = 'reading_retracted'
)
select s.vital::text as vital, value, quality, suspect, occurred_at, recorded_at, s.source_id
from series s
join reading r on r.shard = $1 and r.series = s.series and occurred_at >= $5 and occurred_at < $6
where s.shard = $1 and s.tenant = $2 and s.patient_id = $3 and s.vital = $4::text::vital
  and ($7::text is null or s.source_id = $7)
  and not exists (select from retracted where position = r.position)
order by occurred_at, s.source_id
