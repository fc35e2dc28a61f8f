-- What the rules remember of the patients of a window ($2, $3), and of those whose time
-- has come by $4, if any.
with patient as (
    select * from unnest($2::text[], $3::text[]) as p (tenant, patient_id)
    union
    select tenant, patient_id from rule_state where shard = $1 and due_at <= $4
)
select p.tenant, p.patient_id, s.rule, s.state::text as state
from patient p
-- "offset 0": patient by patient, never by reading what is remembered of everybody.
cross join lateral (
    select rule, state from rule_state
    where shard = $1 and tenant = p.tenant and patient_id = p.patient_id offset 0
) s
