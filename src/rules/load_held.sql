-- What the rules remember of the patients of the tenants $2 who have an alert that a silence
-- holds back: time alone moves them.
select p.tenant, p.patient_id, s.rule, s.state::text as state
from (select distinct tenant, patient_id from rule_state
      where shard = $1 and due_at is not null and tenant = any ($2)
        and state -> 'active' ->> 'held' is not null) p
-- "offset 0": patient by patient, never by reading what is remembered of everybody.
cross join lateral (
    select rule, state from rule_state
    where shard = $1 and tenant = p.tenant and patient_id = p.patient_id offset 0
) s
