-- What shard $1 should hold at position $2, of the patients ($3, $4) or of all when these
-- are null, recomputed by another road (the raising
-- event joined with the first clearing and the first acknowledgement), against what
-- it holds. No row means correct.
with said as (
    select tenant, patient_id, (data ->> 'alertId')::uuid as id, data ->> 'state' as said,
           event_data(type, data) as data, occurred_at, recorded_at, position
    from non_reading
    where shard = $1 and position <= $2
      and (type = 'alert_acknowledged' or type ~ '^[A-Z]') and patient_id <> '_tenant'
      -- By each key as well, for the index: it finds no pairs.
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
), raised as (
    -- Said twice when a silence held the first back.
    select distinct on (id) * from said where said in ('raised', 'missed') order by id, position
), corrected as (
    select distinct on (id) * from said where said = 'corrected' order by id, position desc
), cleared as (
    select distinct on (id) * from said where said = 'cleared' order by id, position
), retracted as (
    select distinct id from said where said = 'retracted'
), acknowledged as (
    select distinct on (id) * from said where said = 'acknowledged' order by id, position
), expected as (
    select r.tenant, r.patient_id, r.id,
           case when t.id is not null then 'retracted'
                when c.position is not null then 'cleared'
                when r.said = 'missed' then 'missed' else 'active' end as state,
           r.data ->> 'event' as event, r.data ->> 'priority' as priority, r.data ->> 'rule' as rule,
           (r.data ->> 'ruleVersion')::int as rule_version, (s.data ->> 'vital')::vital as vital,
           s.data ->> 'unit' as unit, s.data ->> 'deviceId' as device_id,
           (s.data ->> 'readingPosition')::bigint as reading_position,
           (s.data ->> 'value')::float8 as value, (s.data ->> 'since')::timestamptz as since,
           r.recorded_at as raised_at, c.occurred_at as cleared_since,
           (c.data ->> 'value')::float8 as cleared_value, a.data ->> 'acknowledged' as acknowledged
    from raised r
    left join corrected k on k.id = r.id
    cross join lateral (select coalesce(k.data, r.data) as data) s
    left join cleared c on c.id = r.id
    left join acknowledged a on a.id = r.id
    left join retracted t on t.id = r.id
), found as (
    select tenant, patient_id, id, state, event, priority, rule,
           rule_version, vital, unit, device_id, reading_position, value, since, raised_at,
           cleared_since, cleared_value, acknowledged
    from alert where shard = $1
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
)
select coalesce(e.tenant, f.tenant) || '/' || coalesce(e.patient_id, f.patient_id)
         || '/' || coalesce(e.id, f.id)::text as key,
       e::text as expected, f::text as found
from expected e full join found f using (tenant, patient_id, id)
where e::text is distinct from f::text
