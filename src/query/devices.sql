-- A page of a tenant's devices in the order of (device, patient), with the hours that
-- their coverage is made of, $8 hours up to the last reading, and with the usual gap of the
-- vital that it sends most often: the median of at most 60 gaps of its last $9 minutes, of
-- $10 at least, so that a hole does not count. Only at patients $11, if any are named.
with device as (
    select *
    from device
    where shard = any($1) and tenant = $2
      and ($3::text is null or device_id = $3) and ($4::text is null or patient_id = $4)
      and ($5::text is null or (device_id, patient_id) > ($5, $6))
      and ($11::text[] is null or patient_id = any ($11))
    order by device_id, patient_id
    limit $7
)
select d.device_id, d.patient_id, d.last_seen, h.last_recorded, h.readings, h.suspects,
       extract(epoch from h.delay_min)::float8 as delay_min_seconds, h.starts, h.minutes,
       p.seconds as registered_seconds, g.seconds as gap_seconds
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
    select min(seconds) as seconds
    from (
        select percentile_disc(0.5) within group (order by gap) as seconds
        from series s
        cross join lateral (
            select extract(epoch from occurred_at - lead(occurred_at) over (order by occurred_at desc))::float8 as gap
            from (
                select occurred_at
                from reading
                where shard = d.shard and series = s.series
                  and occurred_at > d.last_seen - make_interval(mins => $9) and occurred_at <= d.last_seen
                order by occurred_at desc
                limit 61
            ) newest
        ) gaps
        where s.shard = d.shard and s.tenant = d.tenant and s.patient_id = d.patient_id
          and s.source_id = d.device_id and gap is not null
        group by s.vital
        having count(*) >= $10
    ) usual
) g on true
left join lateral (
    -- Of the patient's record, which is its author's own text.
    select (record::json -> 'devices' -> d.device_id ->> 'intervalSeconds')::float8 as seconds
    from patient
    where shard = d.shard and tenant = d.tenant and patient_id = d.patient_id
      and record::json #>> array['devices', d.device_id, 'intervalSeconds'] ~ '^[0-9]{1,6}(\.[0-9]+)?$'
) p on true
order by d.device_id, d.patient_id
