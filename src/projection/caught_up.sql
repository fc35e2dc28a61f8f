-- Whether no consumer of $3 is behind the heads of shards ($1, $2), and none of $4 has an
-- event that is no reading before it; and the heads. Those that are not given are read.
-- Who has asked what changes no answer: nobody waits until that is folded.
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
                 and (h.position - c.position > 1000
                      or h.position - c.position > (
                          -- By their positions, and not by the index of all accesses.
                          select count(*) filter (where a.type = 'access') from non_reading a
                          where a.shard = h.shard and a.position > c.position and a.position <= h.position))
              or (c.consumer = any ($4)
                  and exists (select from non_reading e
                              where e.shard = h.shard and e.type <> 'access'
                                and e.position > c.position and e.position <= h.position))
       ) as caught_up
from head
