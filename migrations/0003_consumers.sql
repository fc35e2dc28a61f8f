-- Who reads the log, how far they are, and what they hold beside what they fold
-- (decision 0005). The tables of projections are made by projections/*/schema.sql.

create table checkpoint (
    consumer text     not null,
    shard    smallint not null,
    position bigint   not null default 0,
    primary key (shard, consumer)
) with (fillfactor = 50);

-- Where a consumer has stopped, and at what, so that who asks any instance is told. A row
-- counts as long as the checkpoint stands where it stood: whoever goes on need not come here
-- to say so.
create table stopped (
    shard    smallint    not null,
    consumer text        not null,
    position bigint      not null,   -- of the checkpoint: what comes next cannot be acted on
    reason   text        not null,
    since    timestamptz not null default clock_timestamp(),
    primary key (shard, consumer)
);

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
-- somebody finds this first, by its search_path; all others never look here.
create schema unparked;
create view unparked.reading as
select r.*
from public.reading r
where not exists (select from public.parked p
                  join public.series s
                    on s.shard = p.shard and s.tenant = p.tenant and s.patient_id = p.patient_id
                  where p.shard = r.shard and p.consumer = current_setting('vitals.consumer')
                    and s.series = r.series);
create view unparked.non_reading as
select n.*
from public.non_reading n
where not exists (select from public.parked p
                  where p.shard = n.shard and p.consumer = current_setting('vitals.consumer')
                    and p.tenant = n.tenant and p.patient_id = n.patient_id);

-- The log of one patient, for taking them up again.
create schema resumed;
create view resumed.reading as
select r.*
from public.reading r
where exists (select from public.series s
              where s.shard = r.shard and s.series = r.series
                and s.tenant = current_setting('vitals.tenant')
                and s.patient_id = current_setting('vitals.patient'));
create view resumed.non_reading as
select n.*
from public.non_reading n
where n.tenant = current_setting('vitals.tenant') and n.patient_id = current_setting('vitals.patient');

-- Which text of a projection's SQL its tables were made by. Another text means that they are
-- rebuilt from the log; until the new ones have taken their place, the one that made them
-- goes on folding them, whichever version of the program folds.
create table projection (
    name      text primary key,
    sql_hash  text not null,
    apply_sql text,
    check_sql text
);

-- A rebuild under way, so that it can be taken up again: how far each shard is folded.
create table rebuilding (
    name     text     not null,
    shard    smallint not null,
    sql_hash text     not null,
    position bigint   not null default 0,
    primary key (name, shard)
);

-- What the continuous self-check has seen, so that instances share the work and what it
-- found outlives them: the last patient of a projection's shard that was looked at.
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

-- A fold that nobody waits for gives way to what comes in: its scan of a window rests for a
-- moment every so many positions, so that its work is spread and not done in one piece.
-- The consumer says how long, for its transaction; where nobody says so, not at all.
-- Of SQL, so that it becomes part of the scan's filter: a call for each reading would cost
-- more than the reading.
create function rested(at_position bigint) returns boolean language sql volatile as $$
    select at_position & 255 <> 0
        or pg_sleep(coalesce(nullif(current_setting('vitals.rest_ms', true), ''), '0')::float8 / 1000)
           is not null
$$;
