-- Readings in [$5, $6) of the vital $4, of one device only if $7 names it, in order,
-- without what was retracted.
with retracted as materialized (
    -- At the readings' own times. Almost always none.
    select (data ->> 'readingPosition')::bigint as position
    from event
    where shard = $1 and tenant = $2 and patient_id = $3 and vital is null
      and occurred_at >= $5 and occurred_at < $6 and type = 'reading_retracted'
)
select vital::text as vital, value, quality, suspect, occurred_at, recorded_at, source_id
from event r
where shard = $1 and tenant = $2 and patient_id = $3 and vital = $4::text::vital
  and occurred_at >= $5 and occurred_at < $6
  and ($7::text is null or source_id = $7)
  and not exists (select from retracted where position = r.position)
order by occurred_at, source_id
