-- One page of a patient's events in [$4, $5), recorded by $6, in the order of (time,
-- position), after the place ($7, $8). Each vital, and what is no reading, is read by
-- the natural key and no further than the page is long.
select * from (
    select e.*
    from unnest(enum_range(null::vital)) as v (vital)
    cross join lateral (
        select position, recorded_at, tenant, patient_id, type, vital::text as vital, value, quality,
               suspect, occurred_at, source_id, data::text as data
        from event
        where shard = $1 and tenant = $2 and patient_id = $3 and vital = v.vital
          and occurred_at >= $4 and occurred_at < least($5, $6 + interval '10 min') and recorded_at <= $6
          and (occurred_at, position) > ($7, $8)
        order by occurred_at, position
        limit $9
    ) e
    union all
    (select position, recorded_at, tenant, patient_id, type, vital::text as vital, value, quality,
            suspect, occurred_at, source_id, event_data(type, data)::text as data
     from event
     where shard = $1 and tenant = $2 and patient_id = $3 and vital is null
       and occurred_at >= $4 and occurred_at < least($5, $6 + interval '10 min') and recorded_at <= $6
       and (occurred_at, position) > ($7, $8)
     order by occurred_at, position
     limit $9)
) page
order by occurred_at, position
limit $9
