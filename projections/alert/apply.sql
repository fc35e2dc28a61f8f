-- follows: non-readings
-- pace: 5 ms
--
-- Folds shard $1, positions ($2, $3]; in which times ($4, $5) they lie does not matter here.
-- Reduces to one row an alert first; a later window adds what an earlier one lacked.
with said as (
    select tenant, patient_id, (data ->> 'alertId')::uuid as id, data ->> 'state' as said,
           event_data(type, data) as data, occurred_at, recorded_at, position
    from non_reading
    where shard = $1 and position > $2 and position <= $3
      -- By type, as Event::is_alert: other events' data may hold what a caller wrote.
      and (type = 'alert_acknowledged' or type ~ '^[A-Z]') and patient_id <> '_tenant'
), reduced as (
    select tenant, patient_id, id,
           (array_agg(data order by position) filter (where said in ('raised', 'missed')))[1] as raised,
           -- A correction put it on another reading: that one is shown.
           (array_agg(data order by position desc) filter (where said = 'corrected'))[1] as corrected,
           min(recorded_at) filter (where said in ('raised', 'missed')) as raised_at,
           (array_agg(data order by position) filter (where said = 'cleared'))[1] as cleared,
           (array_agg(occurred_at order by position) filter (where said = 'cleared'))[1] as cleared_since,
           -- A correction took its ground away: it should never have been.
           bool_or(said = 'retracted') as retracted,
           (array_agg(data -> 'acknowledged' order by position)
               filter (where said = 'acknowledged'))[1] as acknowledged,
           max(position) as position
    from said
    group by tenant, patient_id, id
)
insert into alert as a
select $1, tenant, patient_id, id,
       case when retracted then 'retracted'
            when cleared is not null then 'cleared'
            when raised ->> 'state' = 'missed' then 'missed'
            else 'active' end,
       raised ->> 'event', raised ->> 'priority', raised ->> 'rule', (raised ->> 'ruleVersion')::int,
       (stands ->> 'vital')::vital, (stands ->> 'value')::float8, stands ->> 'unit',
       stands ->> 'deviceId', (stands ->> 'since')::timestamptz, raised_at,
       (stands ->> 'readingPosition')::bigint,
       cleared_since, (cleared ->> 'value')::float8, acknowledged::text, position
from reduced
cross join lateral (select coalesce(corrected, raised) as stands) s
on conflict (shard, tenant, patient_id, id) do update
   set state         = case when 'retracted' in (a.state, excluded.state) then 'retracted'
                            when excluded.cleared_since is not null then 'cleared' else a.state end,
       vital         = coalesce(excluded.vital, a.vital),
       value         = coalesce(excluded.value, a.value),
       unit          = coalesce(excluded.unit, a.unit),
       device_id     = coalesce(excluded.device_id, a.device_id),
       since         = coalesce(excluded.since, a.since),
       reading_position = coalesce(excluded.reading_position, a.reading_position),
       cleared_since = coalesce(a.cleared_since, excluded.cleared_since),
       cleared_value = coalesce(a.cleared_value, excluded.cleared_value),
       acknowledged  = coalesce(a.acknowledged, excluded.acknowledged),
       position      = excluded.position
