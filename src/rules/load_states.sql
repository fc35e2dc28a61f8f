-- What the rules remember of the patients of a window.
select s.tenant, s.patient_id, s.rule, s.state::text as state
from unnest($2::text[], $3::text[]) as p (tenant, patient_id)
join rule_state s on s.shard = $1 and s.tenant = p.tenant and s.patient_id = p.patient_id
