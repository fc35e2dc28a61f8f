-- The alert events of tenant $2, in shards $1, that silence $3 held back: at most $4,
-- oldest first. They lie in the index of what is no reading; "|| ''": and not in the other
-- one that knows tenants, which has all readings.
select patient_id, data::text
from event
where shard = any ($1) and tenant || '' = $2 and type <> 'reading' and type ~ '^[A-Z]'
  and data ->> 'silencedBy' = $3
order by recorded_at, shard, position
limit $4
