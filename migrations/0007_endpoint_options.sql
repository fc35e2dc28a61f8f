-- What an endpoint can ask for beyond a URL and a secret, and what replaying a delivery
-- and answering an alert by a link need. Locks: ACCESS EXCLUSIVE on endpoint and delivery
-- for some ms each: new columns with constant defaults rewrite nothing.
--
-- secret, secrets_before, headers and client_key are sealed (src/webhook/seal.rs) when
-- there is a key to seal them with.

alter table endpoint
    -- Counts changes of what a request is made of, so that a process knows what it knows.
    add column version              integer       not null default 1,
    add column signature            text          not null default 'hmac'
                                                  check (signature in ('hmac', 'ed25519')),
    add column public_key           text,          -- of ed25519, for GET
    add column secrets_before       text[]        not null default '{}',
    add column secrets_before_until timestamptz[] not null default '{}',
    add column headers              text,          -- a JSON object, sealed
    add column header_names         text[]        not null default '{}',
    add column client_certificate   text,          -- PEM
    add column client_key           text,          -- PEM, sealed
    add column payload              text          not null default 'full'
                                                  check (payload in ('full', 'thin')),
    add column heartbeat_seconds    integer,
    add column heartbeat_due_at     timestamptz;

-- Few rows, looked at every second.
create index endpoint_heartbeat on endpoint (heartbeat_due_at)
    where heartbeat_seconds is not null and state = 'active';

-- A replay begins a delivery's schedule anew, under the same id.
alter table delivery
    add column replayed_at     timestamptz,
    add column attempts_before integer not null default 0;

-- What the links that acknowledge an alert are signed with: one for an installation.
create table ack_key (
    id         smallint    primary key check (id = 1),
    secret     text        not null,   -- sealed as above
    created_at timestamptz not null
);
