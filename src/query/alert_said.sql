-- Everything that was said of alert $4 of one patient, in order, at most $5. "offset 0": found
-- first and put in order then. Asked for in order, a plan went by position, through the whole
-- shard.
select type, data, occurred_at, recorded_at
from (
    select type, data::text as data, occurred_at, recorded_at, position
    from non_reading
    where shard = $1 and tenant = $2 and patient_id = $3
      and (type ~ '^[A-Z]' or type in ('alert_acknowledged', 'alert_clear_requested', 'alert_shadowed'))
      and data ->> 'alertId' = $4
    offset 0
) said
order by position
limit $5
