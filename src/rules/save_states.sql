-- Saves what changed, and forgets what is as if nothing had ever happened.
with changed as (
    select * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
                  as c (tenant, patient_id, rule, state, due_at)
), forgotten as (
    delete from rule_state s using changed c
    where s.shard = $1 and s.tenant = c.tenant and s.patient_id = c.patient_id and s.rule = c.rule
      and c.state is null
)
insert into rule_state (shard, tenant, patient_id, rule, state, due_at)
select $1, tenant, patient_id, rule, state::json, due_at from changed where state is not null
on conflict (shard, tenant, patient_id, rule) do update
   set state = excluded.state, due_at = excluded.due_at
