-- Jobs: what takes longer than an answer may. A row, so that any instance tells of it, and
-- so that one that dies leaves it to another.

create table job (
    id          uuid        primary key,
    tenant      text        not null,
    kind        text        not null,               -- src/jobs/mod.rs, Kind
    argument    json        not null,
    asked_by    text        not null,
    asked_at    timestamptz not null default statement_timestamp(),
    state       text        not null default 'waiting'
                check (state in ('waiting', 'running', 'done', 'failed', 'cancelled')),
    claim       integer     not null default 0,     -- how often it was claimed: the fencing token
    lost        smallint    not null default 0,     -- how often whoever ran it did not end it
    lease_until timestamptz,                        -- of who runs it
    started_at  timestamptz,
    ended_at    timestamptz,
    done        bigint      not null default 0,     -- how far it is
    total       bigint      not null default 0,     -- of how much; 0 before that is known
    result      json,
    error       text
);

-- What waits or runs is little, whatever is kept.
create index job_open on job (asked_at) where state in ('waiting', 'running');
create index job_of_tenant on job (tenant, ended_at);
create index job_ended on job (ended_at) where ended_at is not null;
