-- What the rules remember of the patients of a window, and of those ($2, $3) whose
-- time has come by $4, if any.
with patient as (
    select * from unnest($2::text[], $3::text[]) as p (tenant, patient_id)
    union
    select tenant, patient_id from rule_state where shard = $1 and due_at <= $4
)
select s.tenant, s.patient_id, s.rule, s.state::text as state
from patient p
join rule_state s on s.shard = $1 and s.tenant = p.tenant and s.patient_id = p.patient_id
