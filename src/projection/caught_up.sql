-- Whether no consumer of $3 is behind the heads of shards ($1, $2), and none of $4 has an
-- event that is no reading before it; and the heads. Those that are not given are read.
with head as (
    select s.shard, coalesce(s.position, h.position) as position, s.n
    from unnest($1::smallint[], $2::bigint[]) with ordinality as s (shard, position, n)
    join shard_head h on h.shard = s.shard
)
select array_agg(position order by n) as heads,
       not exists (
           select
           from head h
           join checkpoint c on c.shard = h.shard and c.position < h.position
           where c.consumer = any ($3)
              or (c.consumer = any ($4)
                  and exists (select from non_reading e
                              where e.shard = h.shard
                                and e.position > c.position and e.position <= h.position))
       ) as caught_up
from head
