-- One row a heartbeat, like any delivery's but for its position, which is no event's.
insert into delivery (shard, position, endpoint_id, id, tenant, webhook_id, event, body,
                      state, due_at, created_at)
select b.shard, b.position, b.endpoint_id, gen_random_uuid(), b.tenant, b.webhook_id, $7, b.body,
       'pending', clock_timestamp(), clock_timestamp()
from unnest($1::smallint[], $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::text[])
       as b (shard, position, endpoint_id, tenant, webhook_id, body)
on conflict do nothing
