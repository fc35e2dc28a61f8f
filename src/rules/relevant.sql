-- The events of a window that can change anything: the readings of patients of whom a
-- rule remembers something, or of whom a reading in this window breaks a limit. All of
-- theirs, in order, because what follows a breach may end it. And what is no reading
-- but moves a rule.
--
-- The window is summed up first, and its readings are taken only when they concern somebody.
-- Whom it concerns is asked patient by patient and not the other way round: the cost is the
-- window's, however many patients have a memory.
--
-- $6, $7, $8: vitals, and above and below which values a reading of theirs breaks a limit;
-- $9: suspect readings matter as well; $10: the vitals of all rules, also of those that
-- only wait for an alert to clear
--
-- After the events comes what the rules remember of their patients, and of those whose
-- time has come by $11, if any; and what was judged before and is newer than a reading that
-- could raise at once ($12, $13, $14 as $6, $7, $8, and recorded at most $15 seconds after it
-- was measured): rows without a position, the last also without a rule. One answer, one round
-- trip.
with heard as materialized (
    select tenant, patient_id,
           -- By its place in an array: a join went through all bounds for each reading.
           bool_or(value > ($7::float8[])[array_position((select $6::text[]::vital[]), vital)]
                   or value < ($8::float8[])[array_position((select $6::text[]::vital[]), vital)]) as breaks
    from event
    where shard = $1 and position > $2 and position <= $3
      and occurred_at >= $4 and occurred_at <= $5
      and type = 'reading' and (not suspect or $9)
      -- Made of text once, and not for each reading.
      and vital = any ((select $10::text[]::vital[])::vital[])
    -- The last has no order, so that this is always done by hashing.
    group by tenant, patient_id, '0'::xid
), concerned as materialized (
    select tenant, patient_id
    from heard
    where breaks
       -- A value, so that no plan reads what is remembered of everybody. A patient's facts
       -- are no memory of a rule.
       or coalesce((select true from rule_state s
                    where s.shard = $1 and s.tenant = heard.tenant
                      and s.patient_id = heard.patient_id and s.rule <> '_facts'
                    limit 1), false)
), relevant as (
    select position, recorded_at, tenant, patient_id, type, vital::text as vital, value, quality,
           suspect, occurred_at, source_id, null::text as data
    from event
    where shard = $1 and position > $2 and position <= $3
      and occurred_at >= $4 and occurred_at <= $5
      and type = 'reading' and (not suspect or $9)
      and vital = any ((select $10::text[]::vital[])::vital[])
      and exists (select from concerned)
      -- "is true": looked up by a hash, whatever the statistics say.
      and ((tenant, patient_id) in (select tenant, patient_id from concerned)) is true
    union all
    select position, recorded_at, tenant, patient_id, type, vital::text as vital, value, quality,
           suspect, occurred_at, source_id, data::text as data
    from event
    where shard = $1 and position > $2 and position <= $3
      and occurred_at >= $4 and occurred_at <= $5
      and type <> 'reading'
      and type in ('patient_registered', 'alert_acknowledged', 'alert_clear_requested',
                   'reading_retracted', 'rule_changed', 'silence_set')
), raising as (
    select tenant, patient_id, vital::vital as vital, min(occurred_at) as since,
           min(recorded_at) as recorded_at
    from relevant
    where type = 'reading' and not suspect and occurred_at >= recorded_at - make_interval(secs => $15)
      and (value > ($13::float8[])[array_position($12::text[], vital)]
           or value < ($14::float8[])[array_position($12::text[], vital)])
    group by tenant, patient_id, vital
)
select r.*, null as rule, null as state from relevant r
union all
select null, null, s.tenant, s.patient_id, null, null, null, null, null, null, null, null, s.rule, s.state
from (
    select tenant, patient_id from relevant
    union
    select tenant, patient_id from rule_state where shard = $1 and due_at <= $11
) p
-- "offset 0": patient by patient, never by reading what is remembered of everybody.
cross join lateral (
    select tenant, patient_id, rule, state::text as state from rule_state
    where shard = $1 and tenant = p.tenant and patient_id = p.patient_id offset 0
) s
union all
-- Almost always none: whatever could raise is the newest of its patient and vital. "+ 0": not
-- by the order of positions, through the whole shard.
select null, null, r.tenant, r.patient_id, null, r.vital::text, null, null, null, newer.at,
       newer.source_id, null, null, null
from raising r
cross join lateral (
    select e.source_id, max(least(e.occurred_at, e.recorded_at)) as at
    from event e
    where e.shard = $1 and e.tenant = r.tenant and e.patient_id = r.patient_id and e.vital = r.vital
      and e.occurred_at > r.since and e.position + 0 <= $2 and not e.suspect
      -- Nothing is recorded more than minutes before it was true: what comes after this
      -- window is not walked through.
      and e.occurred_at < r.recorded_at + interval '10 min'
      -- What was entered in error was never judged. A retraction lies at its reading's time.
      and not exists (
          select from event x
          where x.shard = $1 and x.tenant = e.tenant and x.patient_id = e.patient_id
            and x.vital is null and x.occurred_at = e.occurred_at and x.position <= $2
            and x.type = 'reading_retracted'
            and (x.data ->> 'readingPosition')::bigint = e.position
          offset 0)
    group by e.source_id
    offset 0
) newer
order by position nulls last
