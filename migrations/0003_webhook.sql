-- Webhooks: endpoints, deliveries, attempts (DESIGN D9). Locks: none, new tables.
-- Endpoints are configuration, not events: they hold secrets, and a log that can
-- never forget is no place for a secret.

create table endpoint (
    tenant      text        not null,
    id          uuid        not null,
    url         text        not null,
    events      text[]      not null,
    secret      text        not null,
    description text,
    state       text        not null check (state in ('active', 'paused', 'disabled')),
    reason      text,
    created_at  timestamptz not null,
    primary key (tenant, id)
);
create unique index endpoint_id on endpoint (id);

create table delivery (
    shard       smallint    not null,
    position    bigint      not null,   -- of the event
    endpoint_id uuid        not null,
    id          uuid        not null,
    tenant      text        not null,
    webhook_id  text        not null,
    event       text        not null,
    body        text        not null,   -- signed and sent to the letter, at every attempt
    state       text        not null check (state in ('pending', 'delivered', 'dead')),
    attempts    integer     not null default 0,
    due_at      timestamptz not null,   -- also the end of the lease while an attempt runs
    created_at  timestamptz not null,
    finished_at timestamptz,
    primary key (shard, position, endpoint_id)
);
create index delivery_due on delivery (endpoint_id, due_at) where state = 'pending';
create index delivery_id on delivery (id);
create index delivery_of_endpoint on delivery (endpoint_id, created_at);

create table attempt (
    shard       smallint    not null,
    delivery_id uuid        not null,
    number      integer     not null,
    started_at  timestamptz not null,
    latency_ms  integer     not null,
    status      integer,               -- of the answer, if one came
    error       text,                  -- why none came
    answer_head text,                  -- its first bytes
    primary key (shard, delivery_id, number)
);
