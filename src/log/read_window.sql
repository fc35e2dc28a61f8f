-- A shard's events in commit order, only in the months that they lie in.
select * from (
    select r.position, r.recorded_at, s.tenant, s.patient_id, 'reading' as type, s.vital::text as vital,
           r.value, r.quality, r.suspect, r.occurred_at, s.source_id,
           (select context::text from reading_context c where c.shard = $1 and c.position = r.position) as data
    from reading r
    -- "offset 0": one look a reading, whatever is known of the tables' sizes.
    cross join lateral (
        select * from series where shard = $1 and series = r.series offset 0
    ) s
    where r.shard = $1 and r.position > $2 and r.position <= $3
      and r.occurred_at >= $4 and r.occurred_at <= $5
    union all
    select position, recorded_at, tenant, patient_id, type, null, null, null, false, occurred_at,
           source_id, event_data(type, data)::text
    from non_reading
    where shard = $1 and position > $2 and position <= $3
) e
order by position
