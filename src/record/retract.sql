-- The reading of a natural key ($1 to $6), and the event that retracted it, if one did:
-- it lies at the reading's own time.
select e.position, e.value, r.recorded_at, r.source_id, r.data ->> 'reason' as reason
from event e
left join lateral (
    select recorded_at, source_id, data
    from event
    where shard = $1 and tenant = $2 and patient_id = $3 and vital is null and occurred_at = $5
      and type = 'reading_retracted' and (data ->> 'readingPosition')::bigint = e.position
    order by position
    limit 1
) r on true
where e.shard = $1 and e.tenant = $2 and e.patient_id = $3 and e.vital = $4::text::vital
  and e.occurred_at = $5 and e.source_id = $6
