-- The events of a window that can change anything: the readings of patients of whom a
-- rule remembers something, or of whom a reading in this window breaks a limit. All of
-- theirs, in order, because what follows a breach may end it. And what is no reading
-- but moves a rule.
--
-- The window is summed up by series first, and its readings are taken only when they concern
-- somebody. Whom it concerns is asked patient by patient and not the other way round: the cost
-- is the window's, however many patients have a memory.
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
with sums as materialized (
    select series, max(value) as highest, min(value) as lowest
    from reading
    where shard = $1 and position > $2 and position <= $3
      and occurred_at >= $4 and occurred_at <= $5 and (not suspect or $9)
    -- The last has no order, so that this is always done by hashing.
    group by series, '0'::xid
), heard as materialized (
    select sums.series, s.tenant, s.patient_id,
           highest > ($7::float8[])[array_position($6::text[], s.vital)]
           or lowest < ($8::float8[])[array_position($6::text[], s.vital)] as breaks
    from sums
    -- "offset 0", here and below: one look a series, whatever is known of the tables' sizes.
    cross join lateral (
        select tenant, patient_id, vital::text as vital from series
        where shard = $1 and series = sums.series offset 0
    ) s
    where s.vital = any ($10)
), concerned as materialized (
    select tenant, patient_id
    from heard
    group by tenant, patient_id, '0'::xid
    having bool_or(breaks)
       -- A value, so that no plan reads what is remembered of everybody. A patient's facts
       -- are no memory of a rule.
       or coalesce((select true from rule_state s
                    where s.shard = $1 and s.tenant = heard.tenant
                      and s.patient_id = heard.patient_id and s.rule <> '_facts'
                    limit 1), false)
), theirs as materialized (
    -- "is true": looked up by a hash, whatever the statistics say.
    select series from heard
    where ((tenant, patient_id) in (select tenant, patient_id from concerned)) is true
), relevant as (
    select r.position, r.recorded_at, s.tenant, s.patient_id, 'reading' as type, s.vital,
           r.value, r.quality, r.suspect, r.occurred_at, s.source_id, null::text as data
    from (
        select * from reading
        where shard = $1 and position > $2 and position <= $3
          and occurred_at >= $4 and occurred_at <= $5 and (not suspect or $9)
          and exists (select from theirs) and (series in (select series from theirs)) is true
        offset 0
    ) r
    cross join lateral (
        select tenant, patient_id, vital::text as vital, source_id from series
        where shard = $1 and series = r.series offset 0
    ) s
    union all
    select position, recorded_at, tenant, patient_id, type, null, null, null, false, occurred_at,
           source_id, data::text
    from non_reading
    where shard = $1 and position > $2 and position <= $3
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
-- Patient by patient, never by reading what is remembered of everybody.
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
    select s.source_id, max(least(e.occurred_at, e.recorded_at)) as at
    from series s
    join reading e on e.shard = $1 and e.series = s.series
    where s.shard = $1 and s.tenant = r.tenant and s.patient_id = r.patient_id and s.vital = r.vital
      and e.occurred_at > r.since and e.position + 0 <= $2 and not e.suspect
      -- Nothing is recorded more than minutes before it was true: what comes after this
      -- window is not walked through.
      and e.occurred_at < r.recorded_at + interval '10 min'
      -- What was entered in error was never judged. A retraction lies at its reading's time.
      and not exists (
          select from non_reading x
          where x.shard = $1 and x.tenant = r.tenant and x.patient_id = r.patient_id
            and x.occurred_at = e.occurred_at and x.position <= $2
            and x.type = 'reading_retracted'
            and (x.data ->> 'readingPosition')::bigint = e.position
          offset 0)
    group by s.source_id
    offset 0
) newer
order by position nulls last
