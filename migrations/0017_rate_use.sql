-- Who has used how much of a rate limit, for all processes of an installation
-- (src/limits/shared.rs). Not of the truth, and not worth the disk's wait: what a crash
-- empties has flowed back a minute later.
create unlogged table rate_use (
    limited smallint    not null,   -- src/limits/mod.rs, LimitKind
    subject bytea       not null,   -- the hash of tenant and subject
    until   timestamptz not null,   -- when all of it will have flowed back
    told_at timestamptz not null,
    primary key (limited, subject)
) with (fillfactor = 50);

-- Processes that count.
create unlogged table rate_process (
    id      uuid        primary key,
    seen_at timestamptz not null
) with (fillfactor = 50);
