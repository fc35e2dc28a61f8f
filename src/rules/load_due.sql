-- What the rules remember of the patients whose time has come by $2.
select p.tenant, p.patient_id, s.rule, s.state::text as state
from (select distinct tenant, patient_id from rule_state where shard = $1 and due_at <= $2) p
-- "offset 0": patient by patient, never by reading what is remembered of everybody.
cross join lateral (
    select rule, state from rule_state
    where shard = $1 and tenant = p.tenant and patient_id = p.patient_id offset 0
) s
