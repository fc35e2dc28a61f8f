-- What readings of [$4, $5] that came late would have raised, said after $6.
select (data ->> 'alertId')::uuid as id, $3 as patient_id, 'missed' as state,
       data ->> 'event' as event, data ->> 'priority' as priority, data ->> 'rule' as rule,
       (data ->> 'ruleVersion')::int as rule_version, data ->> 'vital' as vital,
       (data ->> 'value')::float8 as value, data ->> 'unit' as unit,
       data ->> 'deviceId' as device_id, (data ->> 'since')::timestamptz as since,
       recorded_at as raised_at, null::timestamptz as cleared_since, null::float8 as cleared_value,
       null::text as acknowledged
from (select event_data(type, data) as data, type, shard, tenant, patient_id, occurred_at,
             recorded_at, position
      from non_reading) e
where shard = $1 and tenant = $2 and patient_id = $3
  and occurred_at >= $4 and occurred_at <= $5 and recorded_at > $6
  and type = 'ALERT_MISSED'
order by occurred_at, position
