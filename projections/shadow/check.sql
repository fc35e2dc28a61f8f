-- What shard $1 should hold at position $2, of the patients ($3, $4) or of all when these
-- are null, recomputed by another road (the raising event joined with the first clearing,
-- pages counted one by one over days of their own), against what it holds. No row means
-- correct.
with said as materialized (
    select tenant, patient_id, type = 'alert_shadowed' as shadow, (data ->> 'alertId')::uuid as id,
           data ->> 'state' as said, event_data(type, data) as data, occurred_at, recorded_at, position
    from non_reading
    where shard = $1 and position <= $2
      and (type = 'alert_shadowed' or type ~ '^[A-Z]') and patient_id <> '_tenant'
      -- By each key as well, for the index: it finds no pairs.
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
), raised as (
    -- Said twice when a silence held the first back.
    select distinct on (id) * from said
    where shadow and said in ('raised', 'missed') order by id, position
), corrected as (
    select distinct on (id) * from said where shadow and said = 'corrected' order by id, position desc
), cleared as (
    select distinct on (id) * from said where shadow and said = 'cleared' order by id, position
), expected as (
    select r.tenant, r.patient_id, 'alert/' || r.id::text as what,
           row(case when exists (select from said t where t.shadow and t.id = r.id and t.said = 'retracted')
                         then 'retracted'
                    when c.position is not null then 'cleared'
                    when r.said = 'missed' then 'missed' else 'active' end,
               r.data ->> 'event', r.data ->> 'priority', r.data ->> 'rule',
               (r.data ->> 'ruleVersion')::int, (s.data ->> 'vital')::vital,
               (s.data ->> 'value')::float8, s.data ->> 'unit', s.data ->> 'deviceId',
               (s.data ->> 'since')::timestamptz, r.recorded_at, c.occurred_at,
               (c.data ->> 'value')::float8)::text as holds
    from raised r
    left join corrected k on k.id = r.id
    cross join lateral (select coalesce(k.data, r.data) as data) s
    left join cleared c on c.id = r.id
    union all
    select tenant, patient_id,
           concat_ws('/', 'pages', data ->> 'rule', data ->> 'ruleVersion',
                     to_char(date_trunc('day', occurred_at, 'UTC') at time zone 'UTC', 'YYYY-MM-DD'), shadow),
           sum(1)::text
    from said
    where said = any (array['raised', 'escalated', 're_alarmed'])
      and coalesce(data ->> 'silencedBy', '') = ''
    group by 1, 2, 3
), found as (
    select tenant, patient_id, what, holds
    from (
        select tenant, patient_id, 'alert/' || id::text as what,
               row(state, event, priority, rule, rule_version, vital, value, unit, device_id, since,
                   raised_at, cleared_since, cleared_value)::text as holds
        from shadow_alert where shard = $1
        union all
        select tenant, patient_id,
               concat_ws('/', 'pages', rule, rule_version, to_char(day, 'YYYY-MM-DD'), shadow),
               pages::text
        from page_day where shard = $1
    ) f
    where $3::text[] is null or tenant = any ($3) and patient_id = any ($4)
          and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[]))
)
select coalesce(e.tenant, f.tenant) || '/' || coalesce(e.patient_id, f.patient_id)
         || '/' || coalesce(e.what, f.what) as key,
       e.holds as expected, f.holds as found
from expected e full join found f using (tenant, patient_id, what)
where e.holds is distinct from f.holds
