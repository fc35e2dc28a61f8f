-- A page of the alerts of rules on trial of tenant $2 in shards $1, newest first, $7 at
-- most: of patient $3, in state $4, after ($5, $6), each if it is given. One that stood
-- when its rule was no longer on trial ($8 are those that are) has ended. Only of patients $9,
-- if any are named.
select *
from (
    select id, patient_id,
           case when state = 'active' and not rule = any ($8) then 'ended' else state end as state,
           event, priority, rule, rule_version, vital::text as vital, value, unit, device_id,
           since, raised_at, cleared_since, cleared_value, null::text as acknowledged
    from shadow_alert
    where shard = any ($1) and tenant = $2
      and ($3::text is null or patient_id = $3)
      and ($5::timestamptz is null or (since, id) < ($5, $6))
      and ($9::text[] is null or patient_id = any ($9))
) alert
where $4::text is null or state = $4
order by since desc, id desc
limit $7
