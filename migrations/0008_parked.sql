-- Patients that a consumer could not go on with, rebuilds that can be taken up again, and
-- what the self-check found. Locks: projection is locked for a moment; its new columns do
-- not rewrite it. append_events is locked for a moment.

-- Who is parked, by which consumer, and since which event. The consumer goes on without
-- them; what it holds of them is what it was before that event.
create table parked (
    shard      smallint    not null,
    consumer   text        not null,
    tenant     text        not null,
    patient_id text        not null,
    position   bigint      not null,   -- of the event that could not be acted on
    reason     text        not null,
    parked_at  timestamptz not null default clock_timestamp(),
    resume     boolean     not null default false,   -- somebody has asked for it
    primary key (shard, consumer, tenant, patient_id)
);

-- The log without the patients that a consumer has parked. A consumer that has parked
-- somebody finds this as "event", by its search_path; all others never look here.
create schema unparked;
create view unparked.event as
select e.*
from public.event e
where not exists (select from public.parked p
                  where p.shard = e.shard and p.consumer = current_setting('vitals.consumer')
                    and p.tenant = e.tenant and p.patient_id = e.patient_id);

-- The log of one patient, for taking them up again.
create schema resumed;
create view resumed.event as
select e.*
from public.event e
where e.tenant = current_setting('vitals.tenant') and e.patient_id = current_setting('vitals.patient');

-- Whoever appends, appends to the log, whatever their search_path finds first.
alter function append_events set search_path = public;

-- The text that made a projection's tables goes on folding them until the tables of
-- another text have taken their place, whichever version of the program folds. Null:
-- made before this was kept.
alter table projection add column apply_sql text, add column check_sql text;

-- A rebuild under way, so that it can be taken up again: how far each shard is folded.
create table rebuilding (
    name     text     not null,
    shard    smallint not null,
    sql_hash text     not null,
    position bigint   not null default 0,
    primary key (name, shard)
);

-- What the continuous self-check has seen, so that instances share the work and what it
-- found outlives them.
-- The last patient of a projection's shard that was looked at.
create table self_check (
    name       text        not null,
    shard      smallint    not null,
    tenant     text        not null default '',
    patient_id text        not null default '',
    checked_at timestamptz not null default clock_timestamp(),
    primary key (name, shard)
);

-- Patients of whom a projection was not what the log says when they were last looked at.
create table drift (
    name       text        not null,
    shard      smallint    not null,
    tenant     text        not null,
    patient_id text        not null,
    rows       integer     not null,   -- of theirs that differ
    found_at   timestamptz not null default clock_timestamp(),
    primary key (name, shard, tenant, patient_id)
);
