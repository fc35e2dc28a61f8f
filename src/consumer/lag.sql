-- How many positions each consumer is behind the log, over all shards.
select c.consumer, sum(h.position - c.position)::bigint
from checkpoint c
join shard_head h using (shard)
group by 1
order by 1
