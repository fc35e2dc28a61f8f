-- What shard $1 should hold at position $2, of the patients ($3, $4) or of all when these
-- are null, recomputed by another road (the last
-- registration joined to who was heard of), against what it holds. No row means correct.
with heard as (
    select tenant, patient_id, min(recorded_at) as first_seen
    from event
    where shard = $1 and position <= $2 and type in ('reading', 'patient_registered')
      -- By each key as well, for the index: it finds no pairs.
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
    group by tenant, patient_id
), registered as (
    select distinct on (tenant, patient_id) tenant, patient_id, data -> 'record' as record, position
    from event
    where shard = $1 and position <= $2 and type = 'patient_registered'
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
    order by tenant, patient_id, position desc
), expected as (
    select $1::smallint as shard, h.tenant, h.patient_id, h.first_seen,
           r.record ->> 'ward' as ward, r.record::text as record, r.position
    from heard h left join registered r using (tenant, patient_id)
)
select coalesce(e.tenant, f.tenant) || '/' || coalesce(e.patient_id, f.patient_id) as key,
       e::text as expected, f::text as found
from expected e
full join (select * from patient where shard = $1
           and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
                and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))) f using (tenant, patient_id)
where e::text is distinct from f::text
