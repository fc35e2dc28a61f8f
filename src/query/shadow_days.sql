-- The days from $3 until $4 and patients of tenant $2, in shards $1, on which version $6 of
-- rule $5 would have paged, or the rules $7 have, oldest first, after ($8, $9) if that is
-- given, $10 at most.
select day, patient_id,
       coalesce(sum(pages) filter (where shadow), 0)::bigint as shadow,
       coalesce(sum(pages) filter (where not shadow), 0)::bigint as active
from page_day
where shard = any ($1) and tenant = $2 and day >= $3 and day < $4
  and (shadow and rule = $5 and rule_version = $6 or not shadow and rule = any ($7))
  and ($8::date is null or (day, patient_id) > ($8, $9))
group by day, patient_id
order by day, patient_id
limit $10
