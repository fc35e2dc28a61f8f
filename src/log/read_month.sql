-- What shard $1 holds of the month [$3, $4) up to position $2, in commit order: the readings
-- of {table} with their {contexts}, and what is no reading.
select * from (
    select r.position, r.recorded_at, s.tenant, s.patient_id, 'reading' as type, s.vital::text as vital,
           r.value, r.quality, r.suspect, r.occurred_at, s.source_id,
           (select context::text from {contexts} c where c.shard = $1 and c.position = r.position) as data
    from {table} r
    -- "offset 0": one look a reading, whatever is known of the tables' sizes.
    cross join lateral (
        select * from series where shard = $1 and series = r.series offset 0
    ) s
    where r.shard = $1 and r.position <= $2
    union all
    select position, recorded_at, tenant, patient_id, type, null, null, null, false, occurred_at,
           source_id, data::text
    from non_reading
    where shard = $1 and position <= $2 and occurred_at >= $3 and occurred_at < $4
) e
order by position
