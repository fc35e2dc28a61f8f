-- A page of tenant $2's patients of whom anything was known by $4 at the moment $3: their
-- ids, and their records as they were then. Of ward $5 then, only $6, after $7, at most $8.
-- The directory says who there ever was, the log what of it counts.
select p.shard, p.patient_id, r.record
from patient p
left join lateral (
    -- What is no reading is found by the natural key as well.
    select data ->> 'record' as record
    from event
    where shard = p.shard and tenant = p.tenant and patient_id = p.patient_id and vital is null
      and occurred_at <= $3 and recorded_at <= $4 and type = 'patient_registered'
    order by occurred_at desc, position desc
    limit 1
) r on true
where p.shard = any($1) and p.tenant = $2
  and ($6::text is null or p.patient_id = $6) and ($7::text is null or p.patient_id > $7)
  and ($5::text is null or r.record::json ->> 'ward' = $5)
  and (r.record is not null
       or exists (select from event e
                  where e.shard = p.shard and e.tenant = p.tenant and e.patient_id = p.patient_id
                    and e.occurred_at <= $3 and e.recorded_at <= $4)
       -- What is archived may be all that there was: the states say so.
       or exists (select from archived_month))
order by p.patient_id
limit $8
