-- What shard $1 should hold at position $2, recomputed by another road (window
-- function instead of upserts), against what it holds. No row means correct.
with expected as (
    select shard, tenant, patient_id, vital, value, quality, suspect,
           occurred_at, recorded_at, source_id, position
    from (select *, row_number() over (partition by tenant, patient_id, vital
                                       order by occurred_at desc, position desc) as place
          from event
          where shard = $1 and position <= $2 and type = 'reading') ranked
    where place = 1
)
select coalesce(e.tenant, f.tenant) || '/' || coalesce(e.patient_id, f.patient_id)
         || '/' || coalesce(e.vital, f.vital)::text as key,
       e::text as expected, f::text as found
from expected e
full join (select * from current_vitals where shard = $1) f using (shard, tenant, patient_id, vital)
where e::text is distinct from f::text
