-- The same as caught_up.sql for consumers $3 of whom every event matters: only checkpoints
-- are looked at, and no month is planned for; and, where little is left, whether all of that
-- is who has asked what, which changes no answer.
with head as (
    select s.shard, coalesce(s.position, h.position) as position, s.n
    from unnest($1::smallint[], $2::bigint[]) with ordinality as s (shard, position, n)
    join shard_head h on h.shard = s.shard
)
select array_agg(position order by n) as heads,
       not exists (select from head h
                   join checkpoint c on c.shard = h.shard and c.position < h.position
                   where c.consumer = any ($3)
                     and (h.position - c.position > 1000
                          or h.position - c.position > (
                              -- By their positions, and not by the index of all accesses.
                              select count(*) filter (where a.type = 'access') from non_reading a
                              where a.shard = h.shard and a.position > c.position
                                and a.position <= h.position))) as caught_up
from head
