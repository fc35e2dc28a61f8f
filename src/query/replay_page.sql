-- One page of a patient's events in [$4, $5), recorded by $6, in the order of (time,
-- position), after the place ($7, $8). Each series, and what is no reading, is read by its
-- index and no further than $10 rows, as in history_page.sql.
with chosen as materialized (
    select series, vital, source_id, least($9, coalesce($10, 32 + 2 * $9 / count(*) over ())) as most
    from series
    where shard = $1 and tenant = $2 and patient_id = $3
), found as materialized (
    select s.vital, s.source_id, s.most, e.*
    from chosen s
    cross join lateral (
        select position, recorded_at, value, quality, suspect, occurred_at,
               row_number() over (order by occurred_at) as nth
        from (
            select position, recorded_at, value, quality, suspect, occurred_at
            from reading
            where shard = $1 and series = s.series
              and occurred_at >= $4 and occurred_at < least($5, $6 + interval '10 min') and recorded_at <= $6
              and (occurred_at, position) > ($7, $8)
            order by occurred_at
            limit s.most
        ) first
    ) e
), cut as materialized (
    select min(occurred_at) as at from found where nth = most and most < $9
)
select page.*, cut.at is not null as is_cut
from (
    select f.position, f.recorded_at, $2::text as tenant, $3::text as patient_id, 'reading' as type, f.vital::text as vital, f.value, f.quality, f.suspect,
           f.occurred_at, f.source_id,
           (select context::text from reading_context c where c.shard = $1 and c.position = f.position) as data
    from found f
    union all
    (select position, recorded_at, tenant, patient_id, type, null, null, null, false, occurred_at, source_id,
            event_data(type, data)::text
     from non_reading
     where shard = $1 and tenant = $2 and patient_id = $3
       and occurred_at >= $4 and occurred_at < least($5, $6 + interval '10 min') and recorded_at <= $6
       and (occurred_at, position) > ($7, $8)
     order by occurred_at, position
     limit $9)
) page cross join cut
where cut.at is null or page.occurred_at <= cut.at
order by page.occurred_at, page.position
limit $9
