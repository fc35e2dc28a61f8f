-- What shard $1 should hold at position $2, recomputed by another road (a join with
-- the last registration), against what it holds. No row means correct.
with heard as (
    select tenant, patient_id, recorded_at, type, data, position
    from event
    where shard = $1 and position <= $2 and type in ('reading', 'patient_registered')
), expected as (
    select $1::smallint as shard, h.tenant, h.patient_id, h.first_seen,
           r.data ->> 'ward' as ward, r.data::text as record, r.position
    from (select tenant, patient_id, min(recorded_at) as first_seen from heard group by 1, 2) h
    left join lateral (select * from heard x
                       where x.tenant = h.tenant and x.patient_id = h.patient_id
                         and x.type = 'patient_registered'
                       order by x.position desc limit 1) r on true
)
select coalesce(e.tenant, f.tenant) || '/' || coalesce(e.patient_id, f.patient_id) as key,
       e::text as expected, f::text as found
from expected e
full join (select * from patient where shard = $1) f using (tenant, patient_id)
where e::text is distinct from f::text
