-- What shard $1 should hold at position $2, of the patients ($3, $4) or of all when these
-- are null, recomputed by another road (truncated times, retractions by natural key, and
-- all at once), against what it holds. No row means correct. Of archived months nothing
-- can be said.
with retracted as materialized (
    -- Read once: looked for at every reading, each would cost all readings of its patient.
    select tenant, patient_id, (data ->> 'vital')::vital as vital,
           (data ->> 'measuredAt')::timestamptz as occurred_at, data ->> 'deviceId' as source_id
    from event
    where shard = $1 and position <= $2 and type <> 'reading' and type = 'reading_retracted'
      -- By each key as well, for the index: it finds no pairs.
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
), expected as (
    select $1 as shard, tenant, patient_id, vital, date_trunc('hour', occurred_at, 'UTC') as start,
           count(*) as count, count(*) filter (where suspect) as suspects,
           min(value) as min, max(value) as max,
           sum(round(value * 1e6)::numeric) as sum_millionths
    from event e
    where shard = $1 and position <= $2 and type = 'reading'
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
      and not exists (select from retracted r
                      where r.tenant = e.tenant and r.patient_id = e.patient_id and r.vital = e.vital
                        and r.occurred_at = e.occurred_at and r.source_id = e.source_id)
    group by 2, 3, 4, 5
), found as (
    select * from vital_hour
    where shard = $1
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
)
select coalesce(e.tenant, f.tenant) || '/' || coalesce(e.patient_id, f.patient_id) || '/'
         || coalesce(e.vital, f.vital)::text || '/' || coalesce(e.start, f.start)::text as key,
       e::text as expected, f::text as found
from expected e
full join found f using (shard, tenant, patient_id, vital, start)
where e::text is distinct from f::text
  and not exists (select from archived_month m
                  where coalesce(e.start, f.start) >= m.since and coalesce(e.start, f.start) < m.until)
