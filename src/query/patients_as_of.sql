-- A page of tenant $2's patients of whom anything was known by $4 at the moment $3: their
-- ids, and their records as they were then. Of ward $5 then, only $6, after $7, at most $8, of $9.
-- The directory says who there ever was, the log what of it counts.
select p.shard, p.patient_id, r.record
from patient p
left join lateral (
    select data ->> 'record' as record
    from non_reading
    where shard = p.shard and tenant = p.tenant and patient_id = p.patient_id
      and occurred_at <= $3 and recorded_at <= $4 and type = 'patient_registered'
    order by occurred_at desc, position desc
    limit 1
) r on true
where p.shard = any($1) and p.tenant = $2
  and ($6::text is null or p.patient_id = $6) and ($7::text is null or p.patient_id > $7)
  and ($9::text[] is null or p.patient_id = any($9))
  and ($5::text is null or r.record::json ->> 'ward' = $5)
  and (r.record is not null
       or exists (select from series s
                  cross join lateral (select from reading r
                                      where r.shard = s.shard and r.series = s.series
                                        and r.occurred_at <= $3 and r.recorded_at <= $4
                                      limit 1) e
                  where s.shard = p.shard and s.tenant = p.tenant and s.patient_id = p.patient_id)
       or exists (select from non_reading n
                  where n.shard = p.shard and n.tenant = p.tenant and n.patient_id = p.patient_id
                    and n.occurred_at <= $3 and n.recorded_at <= $4)
       -- What is archived may be all that there was: the states say so.
       or exists (select from archived_month))
order by p.patient_id
limit $8
