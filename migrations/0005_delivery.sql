-- Webhooks: endpoints, deliveries, attempts (decision 0007). Endpoints are configuration, not
-- events: they hold secrets, and a log that can never forget is no place for a secret.
--
-- secret, secrets_before, headers and client_key are sealed (src/delivery/seal.rs) when there
-- is a key to seal them with.

create table endpoint (
    tenant                text          not null,
    id                    uuid          not null,
    url                   text          not null,
    events                text[]        not null,
    secret                text          not null,
    description           text,
    state                 text          not null check (state in ('active', 'paused', 'disabled')),
    reason                text,                    -- why it is not active
    created_at            timestamptz   not null,
    -- Gets the high alarms that another endpoint of the tenant cannot take.
    fallback              boolean       not null default false,
    -- Of one alert, the next delivery goes out when the one before is done.
    ordered               boolean       not null default false,
    -- Counts changes of what a request is made of, so that a process knows what it knows.
    version               integer       not null default 1,
    signature             text          not null default 'hmac' check (signature in ('hmac', 'ed25519')),
    public_key            text,                    -- of ed25519, for GET
    secrets_before        text[]        not null default '{}',
    secrets_before_until  timestamptz[] not null default '{}',
    headers               text,                    -- a JSON object
    header_names          text[]        not null default '{}',
    client_certificate    text,                    -- PEM
    client_key            text,                    -- PEM
    payload               text          not null default 'full' check (payload in ('full', 'thin')),
    heartbeat_seconds     integer,
    heartbeat_due_at      timestamptz,
    primary key (tenant, id)
);
create unique index endpoint_id on endpoint (id);
-- Few rows, looked at every second.
create index endpoint_heartbeat on endpoint (heartbeat_due_at)
    where heartbeat_seconds is not null and state = 'active';

-- The last number that an endpoint's deliveries have got. Apart from `endpoint`, which is
-- read by everybody and written by people.
create table endpoint_sequence (
    endpoint_id uuid   primary key,
    last        bigint not null
) with (fillfactor = 50);

-- An endpoint that does not take what it is sent. No row: closed.
create table breaker (
    endpoint_id uuid        primary key,
    state       text        not null check (state in ('open', 'half_open')),
    openings    integer     not null,   -- in a row; each pause is longer
    until       timestamptz not null,   -- of the pause, or of the probe's lease
    since       timestamptz not null,
    reason      text        not null
);

create table delivery (
    shard           smallint    not null,
    position        bigint      not null,   -- of the event
    endpoint_id     uuid        not null,
    id              uuid        not null,
    tenant          text        not null,
    webhook_id      text        not null,
    event           text        not null,
    body            text        not null,   -- signed and sent to the letter, at every attempt
    state           text        not null check (state in ('pending', 'delivered', 'dead')),
    attempts        integer     not null default 0,
    due_at          timestamptz not null,   -- also the end of the lease while an attempt runs
    created_at      timestamptz not null,
    finished_at     timestamptz,
    sequence        bigint,                 -- of the endpoint, from 1
    alert_id        uuid,
    priority        text,
    class           text        not null default 'alarm' check (class in ('alarm', 'record')),
    ordered         boolean     not null default false,
    reason          text,                   -- why it is dead
    -- A replay begins a delivery's schedule anew, under the same id.
    replayed_at     timestamptz,
    attempts_before integer     not null default 0,
    primary key (shard, position, endpoint_id)
);
create index delivery_due on delivery (endpoint_id, due_at) where state = 'pending';
create index delivery_id on delivery (id);
-- Lists are a tenant's. To a delivery of which shard, position and endpoint are known there
-- is one way only, its key: no other index begins with the endpoint and has all rows.
create index delivery_of_endpoint on delivery (tenant, endpoint_id, created_at);
create unique index delivery_sequence on delivery (endpoint_id, sequence) where sequence is not null;
-- Small: of those that wait, only where order or superseding asks for it.
create index delivery_of_alert on delivery (alert_id, endpoint_id, position)
    where state = 'pending' and (ordered or priority = 'low');

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

-- What the links that acknowledge an alert are signed with: one for an installation.
create table ack_key (
    id         smallint    primary key check (id = 1),
    secret     text        not null,   -- sealed as above
    created_at timestamptz not null
);
