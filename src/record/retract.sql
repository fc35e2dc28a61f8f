-- The reading of a natural key ($1 to $6), and the event that retracted it, if one did:
-- it lies at the reading's own time.
select e.position, e.value, r.recorded_at, r.source_id, r.data ->> 'reason' as reason
from series s
join reading e on e.shard = $1 and e.series = s.series and e.occurred_at = $5
left join lateral (
    select recorded_at, source_id, data
    from non_reading
    where shard = $1 and tenant = $2 and patient_id = $3 and occurred_at = $5
      and type = 'reading_retracted' and (data ->> 'readingPosition')::bigint = e.position
    order by position
    limit 1
) r on true
where s.shard = $1 and s.tenant = $2 and s.patient_id = $3 and s.vital = $4::text::vital
  and s.source_id = $6
