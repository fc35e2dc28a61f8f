-- The log: the truth that everything else is folded from (DESIGN D1-D3, D12).
-- Locks: none that matter, the tables are new.

create type vital as enum (
    'heart_rate', 'respiratory_rate', 'spo2', 'body_temperature',
    'systolic_bp', 'diastolic_bp', 'mean_bp', 'blood_glucose',
    'body_weight', 'oxygen_flow', 'consciousness', 'heart_rate_variability'
);

-- One narrow, typed row an event. `data` is json and not jsonb: the text is kept
-- to the letter, because the hash chain covers it.
create table event (
    shard       smallint    not null,
    position    bigint      not null,
    tenant      text        not null,
    patient_id  text        not null,
    type        text        not null,
    vital       vital,
    value       float8,
    quality     real,
    suspect     boolean     not null,
    occurred_at timestamptz not null,
    recorded_at timestamptz not null,
    source_id   text        not null,
    data        json
) partition by range (occurred_at);

-- The identity of a reading. Deduplicates for ever, serves every question about a
-- patient's time, orders history. Events that are no readings have no vital: nulls
-- are distinct, so they never collide, and they are found here all the same.
create unique index event_natural_key
    on event (shard, tenant, patient_id, vital, occurred_at, source_id);

-- The order in which a shard's events were committed; every consumer follows it.
create index event_position on event (shard, position);

-- What is no reading is rare: alerts and their fan-out find it among millions.
create index event_happening on event (shard, position) where type <> 'reading';

-- Watches with a clock that was never set send times decades ago. They are kept,
-- in one place, so that a stray clock cannot make hundreds of partitions.
create table event_before_2000 partition of event
    for values from (minvalue) to ('2000-01-01T00:00:00Z');

-- The row IS the shard's counter. An append locks it first, so position order is
-- commit order, and `position > checkpoint` can never skip a late commit.
create table shard_head (
    shard       smallint    primary key,
    position    bigint      not null default 0,
    recorded_at timestamptz not null default '-infinity',
    hash        bytea       not null default '\x0000000000000000000000000000000000000000000000000000000000000000'
) with (fillfactor = 50);

-- One row an append: where its events lie in position and in time (readers use the
-- times to touch only the months they need), and the chain's hash after it.
create table log_commit (
    shard         smallint    not null,
    position_from bigint      not null,   -- of its first event
    position_to   bigint      not null,   -- of its last event
    events        integer     not null,
    occurred_min  timestamptz not null,
    occurred_max  timestamptz not null,
    recorded_at   timestamptz not null,
    hash          bytea       not null,
    primary key (shard, position_to)
);

-- What was decided when the database was initialised and must not change.
create table installation (
    only_one   boolean  primary key default true check (only_one),
    id         uuid     not null,
    shards     smallint not null check (shards between 1 and 64)
);
