-- A shard's events in commit order, in whatever month they lie, with the numbers of their
-- series. A reading whose series is gone is there all the same, as one of nobody.
select * from (
    select r.position, r.recorded_at, coalesce(s.tenant, '') as tenant, coalesce(s.patient_id, '') as patient_id,
           'reading' as type, s.vital::text as vital, r.value, r.quality, r.suspect, r.occurred_at,
           coalesce(s.source_id, '') as source_id,
           (select context::text from reading_context c where c.shard = $1 and c.position = r.position) as data,
           r.series
    from reading r
    left join lateral (
        select * from series where shard = $1 and series = r.series offset 0
    ) s on true
    where r.shard = $1 and r.position > $2 and r.position <= $3
    union all
    select position, recorded_at, tenant, patient_id, type, null, null, null, false, occurred_at,
           source_id, data::text, null
    from non_reading
    where shard = $1 and position > $2 and position <= $3
) e
order by position
