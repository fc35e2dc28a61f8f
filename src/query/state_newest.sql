-- The newest reading of every vital of one patient at $4, of those recorded by $5, and of
-- one device only if $6 names it; and whether it had been retracted by $5. Almost always
-- none is, and then this is the answer: state_as_of.sql looks for what had not been, which
-- makes a plan for each pair of months.
select v.vital::text as vital, e.value, e.quality, e.suspect, e.occurred_at, e.recorded_at, e.source_id,
       exists (
           -- A retraction lies at its reading's time.
           select from event
           where shard = $1 and tenant = $2 and patient_id = $3 and vital is null
             and occurred_at = e.occurred_at and recorded_at <= $5
             and type = 'reading_retracted' and (data ->> 'readingPosition')::bigint = e.position
       ) as retracted
from unnest(enum_range(null::vital)) as v (vital)
cross join lateral (
    select value, quality, suspect, occurred_at, recorded_at, source_id, position
    from event
    where shard = $1 and tenant = $2 and patient_id = $3 and vital = v.vital
      -- Nothing is recorded more than minutes before it was true: fewer rows to look at.
      and occurred_at <= least($4, $5 + interval '10 min') and recorded_at <= $5
      and ($6::text is null or source_id = $6)
    order by occurred_at desc, position desc
    limit 1
) e
