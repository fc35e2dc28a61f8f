-- One page of a patient's readings in [$5, $6), in the order of (time, vital, device),
-- after the place ($7, $8, $9) where the page before ended. Without what was retracted.
-- Each vital is read by the natural key and no further than the page is long.
with retracted as materialized (
    -- At the readings' own times. Almost always none.
    select (data ->> 'readingPosition')::bigint as position
    from event
    where shard = $1 and tenant = $2 and patient_id = $3 and vital is null
      and occurred_at >= $5 and occurred_at < $6 and type = 'reading_retracted'
)
select v.vital::text as vital, e.*
from unnest($4::text[]::vital[]) as v (vital)
cross join lateral (
    select value, quality, suspect, occurred_at, recorded_at, source_id, data::text as context
    from event r
    where shard = $1 and tenant = $2 and patient_id = $3 and vital = v.vital
      and occurred_at >= $5 and occurred_at < $6
      and ($7::timestamptz is null or (occurred_at, v.vital, source_id) > ($7, $8::text::vital, $9::text))
      and ($10::text is null or source_id = $10)
      and not exists (select from retracted where position = r.position)
    order by occurred_at, source_id
    limit $11
) e
order by e.occurred_at, v.vital, e.source_id
limit $11
