-- What the rules read again of patient $3 of tenant $2 in shard $1, up to the correction at
-- position $4: the newest $6 readings of each of the vitals $5; the newest $7 of what else
-- moves a rule, or tells which rule an alert is of; and the newest $8 changes of the tenant's
-- rules. "+ 0": and not in the order of positions, through the whole shard.
(select r.*
 from unnest($5::text[]::vital[]) as of (vital)
 cross join lateral (
    select e.position, e.recorded_at, s.tenant, s.patient_id, 'reading' as type, s.vital::text as vital, e.value,
           e.quality, e.suspect, e.occurred_at, s.source_id, null::text as data
    from series s
    cross join lateral (
        select * from reading
        where shard = $1 and series = s.series and position + 0 <= $4
        order by occurred_at desc
        limit $6
    ) e
    where s.shard = $1 and s.tenant = $2 and s.patient_id = $3 and s.vital = of.vital
    order by e.occurred_at desc
    limit $6
 ) r)
union all
(select position, recorded_at, tenant, patient_id, type, null, null, null, false, occurred_at,
        source_id, event_data(type, data)::text
 from non_reading
 where shard = $1 and tenant = $2 and patient_id = $3 and position + 0 <= $4
   and (type in ('patient_registered', 'alert_clear_requested', 'reading_retracted')
        or type ~ '^[A-Z]' and data ->> 'state' = 'raised')
 order by occurred_at desc
 limit $7)
union all
(select position, recorded_at, tenant, patient_id, type, null, null, null, false, occurred_at,
        source_id, data::text
 from non_reading
 where shard = $1 and tenant = $2 and patient_id = '_tenant' and position + 0 <= $4
   and type = 'rule_changed'
 order by occurred_at desc
 limit $8)
order by position
