-- Readings of [$4, $5] by which what was known by $6 differs from what is known now: that
-- were recorded later and count now, or counted then and were retracted later. In the
-- order of (time, vital, device), after the place ($7, $8, $9) where the page before
-- ended; of one device only if $10 names it.
with retracted as materialized (
    -- At the readings' own times. Almost always none.
    select (data ->> 'readingPosition')::bigint as position, recorded_at, data ->> 'reason' as reason
    from non_reading
    where shard = $1 and tenant = $2 and patient_id = $3
      and occurred_at >= $4 and occurred_at <= $5 and type = 'reading_retracted'
)
select s.vital::text as vital, e.value, e.quality, e.suspect, e.occurred_at, e.recorded_at, s.source_id,
       e.retracted_at, e.reason
from series s
cross join lateral (
    select r.value, r.quality, r.suspect, r.occurred_at, r.recorded_at,
           x.recorded_at as retracted_at, x.reason
    from reading r
    left join retracted x on x.position = r.position
    where r.shard = $1 and r.series = s.series
      and r.occurred_at >= $4 and r.occurred_at <= $5
      and (case when r.recorded_at > $6 then x.position is null else x.recorded_at > $6 end)
      and ($7::timestamptz is null or (r.occurred_at, s.vital, s.source_id) > ($7, $8::text::vital, $9::text))
    order by r.occurred_at
    limit $11
) e
where s.shard = $1 and s.tenant = $2 and s.patient_id = $3 and ($10::text is null or s.source_id = $10)
order by e.occurred_at, s.vital, s.source_id
limit $11
