-- The readings of shard $1 at positions [$2, $3), measured within [$4, $5), that count: those
-- of one patient.
select r.position, r.occurred_at, s.vital::text as vital, s.source_id
from reading r
join series s on s.shard = $1 and s.series = r.series
where r.shard = $1 and r.position >= $2 and r.position < $3 and r.occurred_at >= $4 and r.occurred_at < $5
  and not exists (
      select from non_reading n
      where n.shard = $1 and n.tenant = s.tenant and n.patient_id = s.patient_id
        and n.occurred_at = r.occurred_at and n.type = 'reading_retracted'
        and (n.data ->> 'readingPosition')::bigint = r.position)
order by r.position
