-- Keeps the newest of a rule or a silence, as shard $1's rules have read it.
insert into rule_memory (shard, tenant, kind, id, data, position)
values ($1, $2, $3, coalesce($4::json -> 'rule' ->> 'id', $4::json ->> 'id'), $4::json, $5)
on conflict (shard, tenant, kind, id) do update
   set data = excluded.data, position = excluded.position
