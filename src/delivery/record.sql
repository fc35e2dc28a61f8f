-- Records attempts, and what they mean for their deliveries. Only the attempt that
-- holds the fencing token ($4, the number of the attempt) may decide: one whose lease
-- ran out is recorded, but another has taken over.
--
-- $11 delivered or not   $12 seconds until the next attempt, null when there is none
-- $13 why there is none
with outcome as (
    select * from unnest($1::smallint[], $2::bigint[], $3::uuid[], $4::int[], $5::uuid[], $6::timestamptz[],
                         $7::int[], $8::int[], $9::text[], $10::text[], $11::boolean[], $12::float8[], $13::text[])
        as o (shard, position, endpoint_id, number, delivery_id, started_at,
              latency_ms, status, error, answer_head, delivered, retry_seconds, reason)
), attempted as (
    insert into attempt (shard, delivery_id, number, started_at, latency_ms, status, error, answer_head)
    select shard, delivery_id, number, started_at, latency_ms, status, error, answer_head from outcome
    on conflict do nothing
)
update delivery d
   set state = case when o.delivered then 'delivered' when o.retry_seconds is null then 'dead' else 'pending' end,
       due_at = case when o.delivered or o.retry_seconds is null then d.due_at
                     else clock_timestamp() + make_interval(secs => o.retry_seconds) end,
       finished_at = case when o.delivered or o.retry_seconds is null then clock_timestamp() end,
       reason = o.reason
  from outcome o
 where d.shard = o.shard and d.position = o.position and d.endpoint_id = o.endpoint_id
   -- Not "= 'pending'": the planner would take the index of what waits at an endpoint, and
   -- read all of that for every outcome.
   and d.state not in ('delivered', 'dead') and d.attempts = o.number
   -- After a restore another delivery may have the place of one that was under way. No
   -- condition for an index: the key is the way.
   and (d.id = o.delivery_id) is true
