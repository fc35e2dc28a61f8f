-- What reassignment $5, which began at $4, recorded for patient $3 of tenant $2 in shard $1,
-- commit by commit: how many readings were to lie before the word of it, and how many do,
-- within [$6, $7).
select n.position, (n.data ->> 'readings')::bigint as readings, r.stored
from non_reading n
cross join lateral (
    select count(*) as stored from reading r
    where r.shard = $1 and r.position >= n.position - (n.data ->> 'readings')::bigint
      and r.position < n.position and r.occurred_at >= $6 and r.occurred_at < $7
) r
where n.shard = $1 and n.tenant = $2 and n.patient_id = $3 and n.occurred_at = $4
  and n.type = 'readings_reassigned' and n.data ->> 'reassignment' = $5
order by n.position
