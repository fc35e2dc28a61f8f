-- Everything that was said of alert $4 of one patient, in order, at most $5. Events
-- without a vital are found by the natural key as well.
select type, data::text, occurred_at, recorded_at
from event
where shard = $1 and tenant = $2 and patient_id = $3 and vital is null
  and (type ~ '^[A-Z]' or type in ('alert_acknowledged', 'alert_clear_requested', 'alert_shadowed'))
  and data ->> 'alertId' = $4
order by position
limit $5
