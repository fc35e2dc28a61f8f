-- What shard $1 should hold at position $2, of the patients ($3, $4) or of all when these
-- are null, recomputed by another road (window
-- function instead of upserts, retractions by natural key and not by position), against
-- what it holds. No row means correct.
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
    select shard, tenant, patient_id, vital, value, quality, suspect,
           occurred_at, recorded_at, source_id, position
    from (select *, row_number() over (partition by tenant, patient_id, vital
                                       order by occurred_at desc, position desc) as place
          from event
          where shard = $1 and position <= $2 and type = 'reading'
            and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
                 and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
            and not exists (select from retracted r
                            where r.tenant = event.tenant and r.patient_id = event.patient_id
                              and r.vital = event.vital and r.occurred_at = event.occurred_at
                              and r.source_id = event.source_id)) ranked
    where place = 1
)
select coalesce(e.tenant, f.tenant) || '/' || coalesce(e.patient_id, f.patient_id)
         || '/' || coalesce(e.vital, f.vital)::text as key,
       e::text as expected, f::text as found
from expected e
full join (select * from current_vitals where shard = $1
           and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
                and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))) f using (shard, tenant, patient_id, vital)
where e::text is distinct from f::text
