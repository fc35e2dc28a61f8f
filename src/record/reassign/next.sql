-- The next readings of series $2 in shard $1 that count, after $3 and before $4, at most $8;
-- those that are with patient $6 (shard $5) too, or those that are not ($9). A copy is $7
-- microseconds later; what lies there at the same time, or was retracted there by a person,
-- is there.
select r.position, r.occurred_at, r.value, r.quality, r.suspect, c.context::text as context
from series s
join reading r on r.shard = $1 and r.series = s.series and r.occurred_at > $3 and r.occurred_at < $4
left join reading_context c on c.shard = $1 and c.position = r.position
where s.shard = $1 and s.series = $2
  and not exists (
      select from non_reading n
      where n.shard = $1 and n.tenant = s.tenant and n.patient_id = s.patient_id
        and n.occurred_at = r.occurred_at and n.type = 'reading_retracted'
        and (n.data ->> 'readingPosition')::bigint = r.position)
  and exists (
      select from series t
      join reading e on e.shard = $5 and e.series = t.series
           and e.occurred_at in (r.occurred_at, r.occurred_at + $7 * interval '1 microsecond')
      where t.shard = $5 and t.tenant = s.tenant and t.patient_id = $6 and t.vital = s.vital
        and t.source_id = s.source_id
        and (e.occurred_at = r.occurred_at + $7 * interval '1 microsecond'
             or not exists (
                 select from non_reading n
                 where n.shard = $5 and n.tenant = s.tenant and n.patient_id = $6
                   and n.occurred_at = e.occurred_at and n.type = 'reading_retracted'
                   and (n.data ->> 'readingPosition')::bigint = e.position
                   and n.data ->> 'reassignment' is not null))
  ) = $9
order by r.occurred_at
limit $8
