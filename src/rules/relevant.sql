-- The readings of a window that can change anything: those of patients of whom a rule
-- remembers something, or of whom a reading in this window breaks a limit. All of
-- theirs, in order, because what follows a breach may end it.
--
-- $6, $7, $8: the rules' vitals, comparisons and limits
with reading as materialized (
    select position, recorded_at, tenant, patient_id, type, vital, value, quality,
           suspect, occurred_at, source_id
    from event
    where shard = $1 and position > $2 and position <= $3
      and occurred_at >= $4 and occurred_at <= $5
      and type = 'reading' and not suspect and vital = any ($6::text[]::vital[])
), concerned as (
    select r.tenant, r.patient_id
    from reading r
    join unnest($6::text[]::vital[], $7::text[], $8::float8[]) as rule (vital, op, limit_) using (vital)
    where case rule.op when '>' then r.value > rule.limit_
                       when '>=' then r.value >= rule.limit_
                       when '<' then r.value < rule.limit_
                       else r.value <= rule.limit_ end
    union
    select r.tenant, r.patient_id
    from reading r
    join rule_state s on s.shard = $1 and s.tenant = r.tenant and s.patient_id = r.patient_id
)
select position, recorded_at, tenant, patient_id, type, vital::text as vital, value, quality,
       suspect, occurred_at, source_id, null::text as data
from reading
join concerned using (tenant, patient_id)
order by position
