-- The log: the truth that everything else is folded from (decisions 0001, 0002, 0033).
--
-- A reading names its series by a number, so that the table which everybody writes and reads
-- is narrow. What is no reading is rare and has a table of its own; positions count both.

-- At the end what is new: histories are sorted by the order of the type.
create type vital as enum (
    'heart_rate', 'respiratory_rate', 'spo2', 'body_temperature',
    'systolic_bp', 'diastolic_bp', 'mean_bp', 'blood_glucose',
    'body_weight', 'oxygen_flow', 'consciousness', 'heart_rate_variability'
);

-- What was decided when the database was initialised and must not change. Times from January
-- of months_from on have a partition a month; those before it, back to 2000, one a year, so
-- that a clock that runs wild makes few.
create table installation (
    only_one    boolean  primary key default true check (only_one),
    id          uuid     not null,
    shards      smallint not null check (shards between 1 and 64),
    months_from smallint not null default 2000 check (months_from between 2000 and 9999)
);

-- Who measures what of whom. Made in the transaction of its first reading, numbered from 1
-- in its shard, never changed and never taken away: who has a series has had a reading.
create table series (
    shard      smallint not null,
    series     integer  not null,
    tenant     text     not null,
    patient_id text     not null,
    vital      vital    not null,
    source_id  text     not null,   -- the device
    primary key (shard, series)
);
create unique index series_identity on series (shard, tenant, patient_id, vital, source_id);

-- A measurement. Of eight columns, and those of eight bytes first: a row without quality is
-- 64 bytes.
create table reading (
    position    bigint      not null,
    occurred_at timestamptz not null,   -- when it was true, by the device's clock
    recorded_at timestamptz not null,   -- when the log learned it
    value       float8      not null,   -- in the canonical unit
    series      integer     not null,
    quality     real,                   -- the device's own opinion, 0 to 1
    shard       smallint    not null,
    suspect     boolean     not null
) partition by range (occurred_at);

-- The identity of a reading. Deduplicates for ever, serves every question about a patient's
-- time, orders history.
create unique index reading_natural_key on reading (shard, series, occurred_at);

-- The order in which a shard's events were committed; every consumer follows it.
create index reading_position on reading (shard, position);

-- Watches with a clock that was never set send times decades ago. They are kept, in one
-- place, so that a stray clock cannot make hundreds of partitions.
create table reading_before_2000 partition of reading
    for values from (minvalue) to ('2000-01-01T00:00:00Z');

-- What came with a reading and is no measurement. Rare. json and not jsonb, here and below:
-- the text is kept to the letter, because the hash chain covers it.
create table reading_context (
    shard    smallint not null,
    position bigint   not null,   -- of the reading
    context  json     not null,
    primary key (shard, position)
);

-- Everything else that happened: alerts and answers to them, corrections, records, rules.
create table non_reading (
    position    bigint      not null,
    occurred_at timestamptz not null,
    recorded_at timestamptz not null,
    shard       smallint    not null,
    tenant      text        not null,
    patient_id  text        not null,
    type        text        not null,
    source_id   text        not null,   -- who says so
    data        json,
    primary key (shard, position)
);
create index non_reading_patient on non_reading (shard, tenant, patient_id, occurred_at);

-- The whole log in plain words, for people. Programs ask the tables.
create view event as
select r.shard, r.position, s.tenant, s.patient_id, 'reading' as type, s.vital, r.value, r.quality, r.suspect,
       r.occurred_at, r.recorded_at, s.source_id, c.context as data
from reading r
join series s on s.shard = r.shard and s.series = r.series
left join reading_context c on c.shard = r.shard and c.position = r.position
union all
select shard, position, tenant, patient_id, type, null, null, null, false,
       occurred_at, recorded_at, source_id, data
from non_reading;

-- The row IS the shard's counter. An append locks it first, so position order is commit
-- order, and `position > checkpoint` can never skip a late commit.
create table shard_head (
    shard            smallint    primary key,
    position         bigint      not null default 0,
    recorded_at      timestamptz not null default '-infinity',
    series           integer     not null default 0,   -- the last number that was given
    series_committed integer     not null default 0,   -- the last that the chain covers
    hash             bytea       not null default '\x0000000000000000000000000000000000000000000000000000000000000000'
) with (fillfactor = 50);

-- One row an append: where its events lie in position and in time (readers use the times to
-- touch only the months they need), and the chain's hash after it.
create table log_commit (
    shard         smallint    not null,
    position_from bigint      not null,   -- of its first event
    position_to   bigint      not null,   -- of its last event
    events        integer     not null,
    series_to     integer     not null,   -- the last series by then
    occurred_min  timestamptz not null,
    occurred_max  timestamptz not null,
    recorded_at   timestamptz not null,
    hash          bytea       not null,
    primary key (shard, position_to)
);

-- Months whose readings have left the database. What is left in the partition (the newest
-- reading of each series, the first of each patient, and what was retracted) refuses
-- inserts by a constraint named month_archived; append_events refuses what is no reading.
create table archived_month (
    partition    text        primary key,   -- reading_2025_12, or reading_2019
    since        timestamptz not null,      -- the times that it holds: [since, until)
    until        timestamptz not null,
    location     text        not null,      -- of the file: a path, or s3://…
    rows         bigint      not null,      -- in the file
    kept         bigint      not null,      -- of them, also in the database
    bytes        bigint      not null,      -- of the file
    file_hash    bytea       not null,      -- its SHA-256
    rows_hash    bytea       not null,      -- SHA-256 over its rows' digests, in order
    positions_to bigint[]    not null,      -- its last position in each shard, from 0 on
    archived_at  timestamptz not null default clock_timestamp()
);

-- The histories of this log (decision 0020). A position means something only within one:
-- after a restore, a point in time, or a failover that lost commits, the positions of what is
-- gone are given again, to something else.
--
-- One row a history, written while all heads are locked, so that nothing is appended between
-- the old one and the new one. The first one is written when the database is initialised.
create table incarnation (
    number         bigint      primary key,   -- microseconds since 1970 when it began
    place          text        not null,      -- where the log lay then: src/log/incarnation/look.sql
    began_at       timestamptz not null,
    heads          bigint[]    not null,      -- of each shard, the last position that it took over
    acknowledged   bigint[]    not null,      -- the last that is known to have been acknowledged before
    -- The numbers of endpoints' deliveries made in it are greater than this. A number that is
    -- a time: whichever copy of a database goes on, none gives another's numbers again.
    sequences_from bigint      not null,
    reason         text        not null
);
