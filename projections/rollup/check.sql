-- What shard $1 should hold at position $2, of the patients ($3, $4) or of all when these
-- are null, recomputed by another road (truncated times, minutes counted one by one,
-- retractions by natural key, and all at once), against what it holds. No row means
-- correct. Of archived months nothing can be said.
with retracted as materialized (
    -- Read once: looked for at every reading, each would cost all readings of its patient.
    select tenant, patient_id, (data ->> 'vital')::vital as vital,
           (data ->> 'measuredAt')::timestamptz as occurred_at, data ->> 'deviceId' as source_id
    from non_reading
    where shard = $1 and position <= $2 and type = 'reading_retracted'
      -- By each key as well, for the index: it finds no pairs.
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
), chosen as materialized (
    select series, tenant, patient_id, vital, source_id
    from series
    where shard = $1
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
), measured as materialized (
    select r.series, c.tenant, c.patient_id, c.vital, c.source_id, value, suspect, r.occurred_at, recorded_at,
           date_trunc('minute', r.occurred_at, 'UTC') as minute,
           date_trunc('hour', r.occurred_at, 'UTC') as hour,
           x.occurred_at is null as counts
    from chosen c
    join reading r on r.shard = $1 and r.series = c.series and r.position <= $2
    left join (select distinct * from retracted) x
      on x.tenant = c.tenant and x.patient_id = c.patient_id and x.vital = c.vital
     and x.source_id = c.source_id and x.occurred_at = r.occurred_at
), covered as (
    select tenant, patient_id, source_id, hour, sum(power(2::numeric, minute))::bigint as minutes
    from (select distinct tenant, patient_id, source_id, hour,
                 extract(epoch from minute - hour)::int / 60 as minute
          from measured) m
    group by 1, 2, 3, 4
), expected as (
    select tenant, patient_id, concat_ws('/', 'minute', vital, source_id) as what, minute as start,
           row(count(*), count(*) filter (where suspect), min(value), max(value),
               sum(round(value * 1e6)::numeric))::text as holds
    from measured where counts group by series, tenant, patient_id, vital, source_id, minute
    union all
    select tenant, patient_id, concat_ws('/', 'hour', vital, source_id), hour,
           row(count(*), count(*) filter (where suspect), min(value), max(value),
               sum(round(value * 1e6)::numeric))::text
    from measured where counts group by series, tenant, patient_id, vital, source_id, hour
    union all
    select tenant, patient_id, 'device/' || source_id, hour,
           row(count(*), count(*) filter (where suspect), minutes,
               min(recorded_at - occurred_at), max(recorded_at))::text
    from measured join covered using (tenant, patient_id, source_id, hour)
    group by tenant, patient_id, source_id, hour, minutes
    union all
    select tenant, patient_id, 'device/' || source_id, null, max(occurred_at)::text
    from measured group by tenant, patient_id, source_id
), found as (
    select tenant, patient_id, what, start, holds
    from (
        select s.tenant, s.patient_id, concat_ws('/', 'minute', s.vital, s.source_id) as what, start,
               row(count, suspects, min, max, sum_millionths)::text as holds
        from series_minute m left join series s using (shard, series) where m.shard = $1
        union all
        select s.tenant, s.patient_id, concat_ws('/', 'hour', s.vital, s.source_id), start,
               row(count, suspects, min, max, sum_millionths)::text
        from series_hour h left join series s using (shard, series) where h.shard = $1
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
