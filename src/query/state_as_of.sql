-- The newest reading of every vital of one patient at $4, of those recorded by $5,
-- and of one device only if $6 names it. What had been retracted by $5 does not count.
select v.vital::text as vital, e.*
from unnest(enum_range(null::vital)) as v (vital)
cross join lateral (
    select value, quality, suspect, occurred_at, recorded_at, source_id
    from event r
    where shard = $1 and tenant = $2 and patient_id = $3 and vital = v.vital
      -- Nothing is recorded more than minutes before it was true: fewer rows to look at.
      and occurred_at <= least($4, $5 + interval '10 min') and recorded_at <= $5
      and ($6::text is null or source_id = $6)
      -- A retraction lies at its reading's time, where the natural key finds it: one look a
      -- row, which is what the offset is for, and not a join with all months.
      and not exists (
          select from event
          where shard = $1 and tenant = $2 and patient_id = $3 and vital is null
            and occurred_at = r.occurred_at and recorded_at <= $5
            and type = 'reading_retracted' and (data ->> 'readingPosition')::bigint = r.position
          offset 0)
    order by occurred_at desc, position desc
    limit 1
) e
