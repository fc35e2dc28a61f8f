-- One row for every endpoint that wants the event. `*` means every alert that pages;
-- what was missed pages nobody and is delivered only where it is named.
insert into delivery (shard, position, endpoint_id, id, tenant, webhook_id, event, body,
                      state, due_at, created_at)
select $1, a.position, e.id, gen_random_uuid(), a.tenant, a.webhook_id, a.event, a.body,
       'pending', clock_timestamp(), clock_timestamp()
from unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::boolean[])
       as a (position, tenant, webhook_id, event, body, recorded_at, pages)
join endpoint e on e.tenant = a.tenant
where e.state <> 'disabled'
  and e.created_at <= a.recorded_at
  and (a.event = any (e.events) or (a.pages and '*' = any (e.events)))
-- An endpoint that is being disabled at this moment is waited for, and then left out.
for share of e
on conflict do nothing
