-- A page of a tenant's devices in the order of (device, patient), with the hours that
-- their coverage is made of: $8 hours up to the last reading.
with device as (
    select *
    from device
    where shard = any($1) and tenant = $2
      and ($3::text is null or device_id = $3) and ($4::text is null or patient_id = $4)
      and ($5::text is null or (device_id, patient_id) > ($5, $6))
    order by device_id, patient_id
    limit $7
)
select d.device_id, d.patient_id, d.last_seen, h.last_recorded, h.readings, h.suspects,
       extract(epoch from h.delay_min)::float8 as delay_min_seconds, h.starts, h.minutes,
       p.seconds as registered_seconds
from device d
cross join lateral (
    select coalesce(sum(readings), 0)::bigint as readings, coalesce(sum(suspects), 0)::bigint as suspects,
           min(delay_min) as delay_min, max(last_recorded) as last_recorded,
           coalesce(array_agg(start order by start), '{}') as starts,
           coalesce(array_agg(minutes order by start), '{}') as minutes
    from device_hour
    where shard = d.shard and tenant = d.tenant and patient_id = d.patient_id and device_id = d.device_id
      and start > d.last_seen - make_interval(secs => 3600 * $8) and start <= d.last_seen
) h
left join lateral (
    -- Of the patient's record, which is its author's own text.
    select (record::json -> 'devices' -> d.device_id ->> 'intervalSeconds')::float8 as seconds
    from patient
    where shard = d.shard and tenant = d.tenant and patient_id = d.patient_id
      and record::json #>> array['devices', d.device_id, 'intervalSeconds'] ~ '^[0-9]{1,6}(\.[0-9]+)?$'
) p on true
order by d.device_id, d.patient_id
