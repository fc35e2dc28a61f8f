-- Who is signed in with a browser (decision 0042). A row and no event: it is no fact of a patient,
-- it ends within hours, and its claims are of people. Locks nothing that is there.

create table session (
    id            bytea       primary key,  -- SHA-256 of what the cookie holds
    name          uuid        not null,     -- the "jti" of who is signed in
    tenant        text        not null,
    subject       text        not null,
    claims        json        not null,     -- verified when it began; what they mean is asked each time
    signed_in_at  timestamptz not null,
    seen_at       timestamptz not null,     -- to the minute
    ends_at       timestamptz not null,
    ended_at      timestamptz               -- signed out; by PostgreSQL's clock
);

create index session_of_subject on session (tenant, subject, signed_in_at);
create index session_ended on session (ended_at) where ended_at is not null;
create index session_ends on session (ends_at);

comment on table session is 'who is signed in with a browser; by the hash of their cookie';
