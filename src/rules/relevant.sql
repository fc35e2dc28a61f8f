-- The events of a window that can change anything: the readings of patients of whom a
-- rule remembers something, or of whom a reading in this window breaks a limit. All of
-- theirs, in order, because what follows a breach may end it. And what is no reading
-- but moves a rule.
--
-- Almost always nobody is concerned, and then the window was read once, and nothing of
-- it was kept.
--
-- $6, $7, $8: the rules' vitals, comparisons ('any' for conditions that want every
-- reading) and limits; $9: suspect readings matter as well; $10: the vitals of all rules,
-- also of those that only wait for an alert to clear
with concerned as materialized (
    select e.tenant, e.patient_id
    from event e
    join unnest($6::text[]::vital[], $7::text[], $8::float8[]) as rule (vital, op, limit_) using (vital)
    where e.shard = $1 and e.position > $2 and e.position <= $3
      and e.occurred_at >= $4 and e.occurred_at <= $5
      and e.type = 'reading' and (not e.suspect or $9)
      and case rule.op when '>' then e.value > rule.limit_
                       when '>=' then e.value >= rule.limit_
                       when '<' then e.value < rule.limit_
                       when '<=' then e.value <= rule.limit_
                       else true end
    union
    -- A patient's facts are no memory of a rule.
    select tenant, patient_id from rule_state where shard = $1 and rule <> '_facts'
), relevant as (
    select position, recorded_at, tenant, patient_id, type, vital::text as vital, value, quality,
           suspect, occurred_at, source_id, null::text as data
    from event
    join concerned using (tenant, patient_id)
    where shard = $1 and position > $2 and position <= $3
      and occurred_at >= $4 and occurred_at <= $5
      and type = 'reading' and (not suspect or $9) and vital = any ($10::text[]::vital[])
    union all
    select position, recorded_at, tenant, patient_id, type, vital::text as vital, value, quality,
           suspect, occurred_at, source_id, data::text as data
    from event
    where shard = $1 and position > $2 and position <= $3
      and occurred_at >= $4 and occurred_at <= $5
      and type <> 'reading'
      and type in ('patient_registered', 'alert_acknowledged', 'alert_clear_requested',
                   'reading_retracted', 'rule_changed', 'silence_set')
)
select * from relevant order by position
