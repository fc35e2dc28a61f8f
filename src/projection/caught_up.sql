-- Whether no consumer of $3 is behind the heads ($1, $2), and none of $4 has an event
-- that is no reading before it.
select not exists (
    select
    from unnest($1::smallint[], $2::bigint[]) as h (shard, position)
    join checkpoint c on c.shard = h.shard and c.position < h.position
    where c.consumer = any ($3)
       or (c.consumer = any ($4)
           and exists (select from event e
                       where e.shard = h.shard and e.type <> 'reading'
                         and e.position > c.position and e.position <= h.position))
)
