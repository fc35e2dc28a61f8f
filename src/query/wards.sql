-- Tenant $2's patients who lie in one of wards $3: of whom the directory says so, which may be
-- a little behind, and whose newest record in the log (of type $4), which never is, says it too.
select p.patient_id
from patient p
cross join lateral (
    select data -> 'record' ->> 'ward' as ward
    from non_reading
    where shard = p.shard and tenant = p.tenant and patient_id = p.patient_id and type = $4
    order by occurred_at desc, position desc
    limit 1
) said
where p.shard = any ($1) and p.tenant = $2 and p.ward = any ($3) and said.ward = any ($3)
order by p.patient_id
