-- The alerts of one patient that stood at $4, by what had been recorded by $5; and last, as
-- a row without an id, their record as it was then.
with said as (
    select type, (data ->> 'alertId')::uuid as id, data ->> 'state' as said, event_data(type, data) as data, occurred_at, recorded_at, position
    from non_reading
    where shard = $1 and tenant = $2 and patient_id = $3
      -- Nothing is recorded more than minutes before it was true: fewer rows to look at.
      and occurred_at <= least($4, $5 + interval '10 min') and recorded_at <= $5
      and (type in ('alert_acknowledged', 'patient_registered') or type ~ '^[A-Z]')
)
select r.id, $3 as patient_id, 'active' as state,
       r.data ->> 'event' as event, r.data ->> 'priority' as priority, r.data ->> 'rule' as rule,
       (r.data ->> 'ruleVersion')::int as rule_version, s.data ->> 'vital' as vital,
       (s.data ->> 'value')::float8 as value, s.data ->> 'unit' as unit,
       s.data ->> 'deviceId' as device_id, (s.data ->> 'since')::timestamptz as since,
       r.recorded_at as raised_at, null::timestamptz as cleared_since, null::float8 as cleared_value,
       (select a.data ->> 'acknowledged' from said a
        where a.id = r.id and a.said = 'acknowledged' order by a.position limit 1) as acknowledged,
       null as record
from said r
-- What it stands on: the reading that raised it, or the one that a correction put it on.
cross join lateral (
    select coalesce((select k.data from said k where k.id = r.id and k.said = 'corrected'
                     order by k.position desc limit 1), r.data) as data
) s
where r.said = 'raised'
  -- Said twice when a silence held the first back.
  and not exists (select from said f where f.id = r.id and f.said = 'raised' and f.position < r.position)
  and not exists (select from said c where c.id = r.id and c.said in ('cleared', 'retracted'))
union all
(select null, $3, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
        data ->> 'record'
 from said
 where type = 'patient_registered'
 order by occurred_at desc, position desc
 limit 1)
order by since nulls last, id
