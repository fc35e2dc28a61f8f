-- API keys: for devices that cannot make a JWT. Of a key its hash is kept, never its text.
--
-- Configuration and no event, like an endpoint: a log that can never forget is no place for what
-- a secret can be held against. That a key was made or revoked is an event (api_key_made,
-- token_revoked), and so is by whom. A new table: no lock that anybody waits for.
create table api_key (
    id         text        primary key,    -- the part of the key between its underscores
    tenant     text        not null,
    hash       bytea       not null check (octet_length(hash) = 32),   -- SHA-256 of all of it
    name       text        not null,
    scopes     text        not null,       -- with spaces between
    device     text,                       -- if set, the only one
    patient    text,                       -- likewise
    wards      text[],                     -- likewise
    made_by    text        not null,
    made_at    timestamptz not null,
    expires_at timestamptz,
    used_at    timestamptz,                -- the hour in which it was last used
    revoked_at timestamptz,
    revoked_by text
);
-- The list of a tenant, and how many it has.
create index api_key_of_tenant on api_key (tenant, made_at, id);
