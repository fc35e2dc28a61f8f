-- Claims a shard for consumer $2 and moves its checkpoint by at most $3 positions.
-- Whoever holds the row does the work; it is given back if the work fails. The head
-- is read by the same snapshot, so all up to it is committed. If $6, the window ends with an
-- append: the last one of these positions, or the first if that is longer.
with claimed as (
    select c.shard, c.consumer, c.position as after,
           least(h.position, coalesce(
               (select l.position_to from log_commit l
                where $6 and l.shard = $1 and l.position_to > c.position and l.position_to <= c.position + $3
                order by l.position_to desc limit 1),
               (select l.position_to from log_commit l
                where $6 and l.shard = $1 and l.position_to > c.position + $3
                order by l.position_to limit 1),
               c.position + $3)) as upto, h.position as head
    from checkpoint c
    join shard_head h on h.shard = c.shard
    where c.shard = $1 and c.consumer = $2 and c.position < h.position
    for update of c skip locked
), moved as (
    update checkpoint c
       set position = claimed.upto
      from claimed
     where c.shard = claimed.shard and c.consumer = claimed.consumer
)
select claimed.after, claimed.upto, claimed.head, times.since, times.until,
       -- Whether there is somebody to be left out.
       exists (select from parked where shard = $1 and consumer = $2) as parked,
       -- How long a scan of this window rests, in this transaction (`rested`).
       set_config('vitals.rest_ms', $5, true)
from claimed
-- Where in time these positions lie: a commit that reaches beyond them still begins
-- within one append ($4) of them.
cross join lateral (
    select min(occurred_min) as since, max(occurred_max) as until
    from log_commit l
    where l.shard = $1 and l.position_to > claimed.after
      and l.position_to <= claimed.upto + $4 and l.position_from <= claimed.upto
) times
