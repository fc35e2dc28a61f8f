-- What is no reading of a shard's window, in commit order.
select position, recorded_at, tenant, patient_id, type, null as vital, null::float8 as value,
       null::real as quality, false as suspect, occurred_at, source_id,
       event_data(type, data)::text as data
from non_reading
where shard = $1 and position > $2 and position <= $3
order by position
