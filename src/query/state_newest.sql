-- The newest reading of every vital of one patient at $4, of those recorded by $5, and of
-- one device only if $6 names it; and whether it had been retracted by $5. Almost always
-- none is, and then this is the answer: state_as_of.sql looks for what had not been.
select n.vital::text as vital, n.value, n.quality, n.suspect, n.occurred_at, n.recorded_at, n.source_id,
       exists (
           -- A retraction lies at its reading's time.
           select from non_reading
           where shard = $1 and tenant = $2 and patient_id = $3
             and occurred_at = n.occurred_at and recorded_at <= $5
             and type = 'reading_retracted' and (data ->> 'readingPosition')::bigint = n.position
       ) as retracted
from (
    select distinct on (s.vital) s.vital, s.source_id, e.*
    from series s
    cross join lateral (
        select value, quality, suspect, occurred_at, recorded_at, position
        from reading
        where shard = $1 and series = s.series
          -- Nothing is recorded more than minutes before it was true: fewer rows to look at.
          and occurred_at <= least($4, $5 + interval '10 min') and recorded_at <= $5
        order by occurred_at desc
        limit 1
    ) e
    where s.shard = $1 and s.tenant = $2 and s.patient_id = $3 and ($6::text is null or s.source_id = $6)
    order by s.vital, e.occurred_at desc, e.position desc
) n
