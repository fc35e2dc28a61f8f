-- A shard's events in commit order, in whatever month they lie.
select position, recorded_at, tenant, patient_id, type, vital::text as vital, value, quality,
       suspect, occurred_at, source_id, data::text as data
from event
where shard = $1 and position > $2 and position <= $3
order by position
