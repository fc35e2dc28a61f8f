-- The contexts in which readings were appended, of those that are traced.
-- $1: shard   $2: positions
select p.position, t.context
from (select distinct unnest($2::bigint[])) p (position)
cross join lateral (
    select position_from, context from trace
    where shard = $1 and position_to >= p.position
    order by position_to limit 1
) t
where t.position_from <= p.position
