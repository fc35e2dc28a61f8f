-- What shard $1 should hold at position $2, of the patients ($3, $4) or of all when these
-- are null, recomputed by another road (truncated times, minutes counted one by one,
-- retractions by natural key, and all at once), against what it holds. No row means
-- correct. Of archived months nothing can be said.
with retracted as materialized (
    -- Read once: looked for at every reading, each would cost all readings of its patient.
    select tenant, patient_id, (data ->> 'vital')::vital as vital,
           (data ->> 'measuredAt')::timestamptz as occurred_at, data ->> 'deviceId' as source_id
    from event
    where shard = $1 and position <= $2 and type <> 'reading' and type = 'reading_retracted'
      -- By each key as well, for the index: it finds no pairs.
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
), reading as materialized (
    select tenant, patient_id, vital, source_id, value, suspect, occurred_at, recorded_at,
           date_trunc('minute', occurred_at, 'UTC') as minute,
           date_trunc('hour', occurred_at, 'UTC') as hour,
           not exists (select from retracted r
                       where r.tenant = e.tenant and r.patient_id = e.patient_id and r.vital = e.vital
                         and r.occurred_at = e.occurred_at and r.source_id = e.source_id) as counts
    from event e
    where shard = $1 and position <= $2 and type = 'reading'
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
), covered as (
    select tenant, patient_id, source_id, hour, sum(power(2::numeric, minute))::bigint as minutes
    from (select distinct tenant, patient_id, source_id, hour,
                 extract(epoch from minute - hour)::int / 60 as minute
          from reading) m
    group by 1, 2, 3, 4
), expected as (
    select tenant, patient_id, 'minute/' || vital::text as what, minute as start,
           row(count(*), count(*) filter (where suspect), min(value), max(value),
               sum(round(value * 1e6)::numeric))::text as holds
    from reading where counts group by tenant, patient_id, vital, minute
    union all
    select tenant, patient_id, 'hour/' || vital::text, hour,
           row(count(*), count(*) filter (where suspect), min(value), max(value),
               sum(round(value * 1e6)::numeric))::text
    from reading where counts group by tenant, patient_id, vital, hour
    union all
    select tenant, patient_id, 'device/' || source_id, hour,
           row(count(*), count(*) filter (where suspect), minutes,
               min(recorded_at - occurred_at), max(recorded_at))::text
    from reading join covered using (tenant, patient_id, source_id, hour)
    group by tenant, patient_id, source_id, hour, minutes
    union all
    select tenant, patient_id, 'device/' || source_id, null, max(occurred_at)::text
    from reading group by tenant, patient_id, source_id
), found as (
    select tenant, patient_id, what, start, holds
    from (
        select tenant, patient_id, 'minute/' || vital::text as what, start,
               row(count, suspects, min, max, sum_millionths)::text as holds
        from vital_minute where shard = $1
        union all
        select tenant, patient_id, 'hour/' || vital::text, start,
               row(count, suspects, min, max, sum_millionths)::text
        from vital_hour where shard = $1
        union all
        select tenant, patient_id, 'device/' || device_id, start,
               row(readings, suspects, minutes, delay_min, last_recorded)::text
        from device_hour where shard = $1
        union all
        select tenant, patient_id, 'device/' || device_id, null, last_seen::text
        from device where shard = $1
    ) held
    where $3::text[] is null
       or tenant = any ($3) and patient_id = any ($4)
          and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[]))
)
select coalesce(e.tenant, f.tenant) || '/' || coalesce(e.patient_id, f.patient_id) || '/'
         || coalesce(e.what, f.what) || coalesce('/' || coalesce(e.start, f.start)::text, '') as key,
       e.holds as expected, f.holds as found
from expected e
full join found f on e.tenant = f.tenant and e.patient_id = f.patient_id and e.what = f.what
                 and coalesce(e.start, '-infinity') = coalesce(f.start, '-infinity')
where e.holds is distinct from f.holds
  and not exists (select from archived_month m
                  where coalesce(e.start, f.start) >= m.since and coalesce(e.start, f.start) < m.until)
