-- Of series $2 in shard $1: the readings of [$3, $4) that count; of them, those of which a copy
-- $7 microseconds later would meet a place of patient $6 (shard $5) that is taken by what a
-- reassignment took back (or, when it is later, by anything); and the first one where that
-- patient has another value at the same time.
select count(*) as readings,
       count(*) filter (where p.taken) as taken,
       min(r.occurred_at) filter (where p.differs) as differs_at
from series s
join reading r on r.shard = $1 and r.series = s.series and r.occurred_at >= $3 and r.occurred_at < $4
left join lateral (
    select bool_or(e.occurred_at > r.occurred_at or x.by_job) as taken,
           bool_or(e.occurred_at = r.occurred_at and x.position is null and e.value <> r.value) as differs
    from series t
    join reading e on e.shard = $5 and e.series = t.series
         and e.occurred_at in (r.occurred_at, r.occurred_at + $7 * interval '1 microsecond')
    left join lateral (
        select n.position, n.data ->> 'reassignment' is not null as by_job
        from non_reading n
        where n.shard = $5 and n.tenant = s.tenant and n.patient_id = $6 and n.occurred_at = e.occurred_at
          and n.type = 'reading_retracted' and (n.data ->> 'readingPosition')::bigint = e.position
        order by n.position limit 1
    ) x on true
    where t.shard = $5 and t.tenant = s.tenant and t.patient_id = $6 and t.vital = s.vital
      and t.source_id = s.source_id
      -- What was taken back at the same time is why the copies are later.
      and ($7 = 0 or e.occurred_at > r.occurred_at or not coalesce(x.by_job, false))
) p on true
where s.shard = $1 and s.series = $2
  and not exists (
      select from non_reading n
      where n.shard = $1 and n.tenant = s.tenant and n.patient_id = s.patient_id
        and n.occurred_at = r.occurred_at and n.type = 'reading_retracted'
        and (n.data ->> 'readingPosition')::bigint = r.position)
