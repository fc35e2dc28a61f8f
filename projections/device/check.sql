-- What shard $1 should hold at position $2, of the patients ($3, $4) or of all when these
-- are null, recomputed by another road (minutes counted one by one, all at once), against
-- what it holds. No row means correct. Of the hours of archived months nothing can be said.
with reading as materialized (
    select tenant, patient_id, source_id as device_id, suspect, occurred_at, recorded_at,
           date_trunc('hour', occurred_at, 'UTC') as start
    from event
    where shard = $1 and position <= $2 and type = 'reading'
      -- By each key as well, for the index: it finds no pairs.
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
), minute as (
    select tenant, patient_id, device_id, start, sum(power(2::numeric, minute))::bigint as minutes
    from (select distinct tenant, patient_id, device_id, start,
                 extract(epoch from date_trunc('minute', occurred_at, 'UTC') - start)::int / 60 as minute
          from reading) m
    group by 1, 2, 3, 4
), expected as (
    select r.tenant, r.patient_id, r.device_id, r.start,
           row(count(*), count(*) filter (where suspect), minutes,
               min(recorded_at - occurred_at), max(recorded_at))::text as what
    from reading r join minute using (tenant, patient_id, device_id, start)
    group by r.tenant, r.patient_id, r.device_id, r.start, minutes
    union all
    select tenant, patient_id, device_id, null, max(occurred_at)::text
    from reading group by tenant, patient_id, device_id
), found as (
    select tenant, patient_id, device_id, start,
           row(readings, suspects, minutes, delay_min, last_recorded)::text as what
    from device_hour
    where shard = $1
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
    union all
    select tenant, patient_id, device_id, null, last_seen::text
    from device
    where shard = $1
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
)
select coalesce(e.tenant, f.tenant) || '/' || coalesce(e.patient_id, f.patient_id) || '/'
         || coalesce(e.device_id, f.device_id)
         || coalesce('/' || coalesce(e.start, f.start)::text, '') as key,
       e.what as expected, f.what as found
from expected e
full join found f on e.tenant = f.tenant and e.patient_id = f.patient_id and e.device_id = f.device_id
                 and coalesce(e.start, '-infinity') = coalesce(f.start, '-infinity')
where e.what is distinct from f.what
  and not exists (select from archived_month m
                  where coalesce(e.start, f.start) >= m.since and coalesce(e.start, f.start) < m.until)
