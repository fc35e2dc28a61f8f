-- Readings of [$4, $5] by which what was known by $6 differs from what is known now: that
-- were recorded later and count now, or counted then and were retracted later. In the
-- order of (time, vital, device), after the place ($7, $8, $9) where the page before
-- ended; of one device only if $10 names it.
with retracted as materialized (
    -- At the readings' own times. Almost always none.
    select (data ->> 'readingPosition')::bigint as position, recorded_at, data ->> 'reason' as reason
    from event
    where shard = $1 and tenant = $2 and patient_id = $3 and vital is null
      and occurred_at >= $4 and occurred_at <= $5 and type = 'reading_retracted'
)
select v.vital::text as vital, e.*
from unnest(enum_range(null::vital)) as v (vital)
cross join lateral (
    select r.value, r.quality, r.suspect, r.occurred_at, r.recorded_at, r.source_id,
           x.recorded_at as retracted_at, x.reason
    from event r
    left join retracted x on x.position = r.position
    where r.shard = $1 and r.tenant = $2 and r.patient_id = $3 and r.vital = v.vital
      and r.occurred_at >= $4 and r.occurred_at <= $5
      and (case when r.recorded_at > $6 then x.position is null else x.recorded_at > $6 end)
      and ($7::timestamptz is null or (r.occurred_at, v.vital, r.source_id) > ($7, $8::text::vital, $9::text))
      and ($10::text is null or r.source_id = $10)
    order by r.occurred_at, r.source_id
    limit $11
) e
order by e.occurred_at, v.vital, e.source_id
limit $11
