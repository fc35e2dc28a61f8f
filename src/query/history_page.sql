-- One page of a patient's readings in [$5, $6), in the order of (time, vital, device),
-- after the place ($7, $8, $9) where the page before ended. Without what was retracted.
--
-- Each series is read by the natural key, and no further than $12 rows: twice its share of
-- the page, if that is null. Up to where the first of those ends that have more, what was
-- read is all that there is. If that is less than a page, `is_cut` says so in its rows.
with retracted as materialized (
    -- At the readings' own times. Almost always none.
    select (data ->> 'readingPosition')::bigint as position
    from non_reading
    where shard = $1 and tenant = $2 and patient_id = $3
      and occurred_at >= $5 and occurred_at < $6 and type = 'reading_retracted'
), chosen as materialized (
    select series, vital, source_id, least($11, coalesce($12, 32 + 2 * $11 / count(*) over ())) as most
    from series
    where shard = $1 and tenant = $2 and patient_id = $3 and vital = any ($4::text[]::vital[])
      and ($10::text is null or source_id = $10)
), found as materialized (
    select s.vital, s.source_id, s.most, e.*
    from chosen s
    cross join lateral (
        select value, quality, suspect, occurred_at, recorded_at, position,
               row_number() over (order by occurred_at) as nth
        from (
            select value, quality, suspect, occurred_at, recorded_at, position
            from reading r
            where shard = $1 and series = s.series
              and occurred_at >= $5 and occurred_at < $6
              and ($7::timestamptz is null or (occurred_at, s.vital, s.source_id) > ($7, $8::text::vital, $9::text))
              and not exists (select from retracted where position = r.position)
            order by occurred_at
            limit s.most
        ) first
    ) e
), cut as materialized (
    select min(occurred_at) as at from found where nth = most and most < $11
)
select f.vital::text as vital, f.value, f.quality, f.suspect, f.occurred_at, f.recorded_at, f.source_id,
       (select context::text from reading_context c where c.shard = $1 and c.position = f.position) as context,
       cut.at is not null as is_cut
from found f cross join cut
where cut.at is null or f.occurred_at <= cut.at
order by f.occurred_at, f.vital, f.source_id
limit $11
