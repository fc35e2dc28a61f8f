-- The tenants that have anything in the log, of the shards $1. By leaps over the keys: a look
-- for each tenant, and not for each series.
with recursive found (shard, tenant) as (
    select s.shard, ''
    from unnest($1::smallint[]) as s (shard)
    union all
    select f.shard, least(
        (select s.tenant from series s
         where s.shard = f.shard and s.tenant > f.tenant order by s.tenant limit 1),
        (select n.tenant from non_reading n
         where n.shard = f.shard and n.tenant > f.tenant order by n.tenant limit 1))
    from found f
    where f.tenant is not null
)
-- What is said of the log itself is of no tenant.
select distinct tenant from found where tenant <> '' and tenant <> '_log' order by tenant
