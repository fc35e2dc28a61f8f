-- The alert events of tenant $2, in shards $1, that silence $3 held back: at most $4,
-- oldest first.
select patient_id, data::text
from non_reading
where shard = any ($1) and tenant = $2 and type ~ '^[A-Z]'
  and data ->> 'silencedBy' = $3
order by recorded_at, shard, position
limit $4
