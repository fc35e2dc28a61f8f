-- A shard's events in commit order, only in the months that they lie in.
select position, recorded_at, tenant, patient_id, type, vital::text as vital, value, quality,
       suspect, occurred_at, source_id,
       (case when vital is null then event_data(type, data) else data end)::text as data
from event
where shard = $1 and position > $2 and position <= $3
  and occurred_at >= $4 and occurred_at <= $5
order by position
