-- The first moment of [$5, $6) at which series that would be one for the patient, $2 in the
-- shards $1 of the vitals $3 and devices $4, have values that count and differ.
select min(m.at)
from (
    select u.vital, u.source_id, r.occurred_at as at
    from unnest($1::smallint[], $2::integer[], $3::text[], $4::text[]) as u (shard, series, vital, source_id)
    join series s on s.shard = u.shard and s.series = u.series
    join reading r on r.shard = u.shard and r.series = u.series and r.occurred_at >= $5 and r.occurred_at < $6
    where not exists (
        select from non_reading n
        where n.shard = u.shard and n.tenant = s.tenant and n.patient_id = s.patient_id
          and n.occurred_at = r.occurred_at and n.type = 'reading_retracted'
          and (n.data ->> 'readingPosition')::bigint = r.position)
    group by u.vital, u.source_id, r.occurred_at
    having min(r.value) <> max(r.value)
) m
