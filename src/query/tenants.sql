-- The tenants that have anything in the log, of the shards $1. By leaps over the natural
-- key: a look for each tenant and partition, and not for each event.
with recursive found (shard, tenant) as (
    select s.shard, (select e.tenant from event e where e.shard = s.shard order by e.tenant limit 1)
    from unnest($1::smallint[]) as s (shard)
    union all
    select f.shard, (select e.tenant from event e
                     where e.shard = f.shard and e.tenant > f.tenant order by e.tenant limit 1)
    from found f
    where f.tenant is not null
)
-- What is said of the log itself is of no tenant.
select distinct tenant from found where tenant is not null and tenant <> '_log' order by tenant
