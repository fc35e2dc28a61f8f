-- The histories of this log (DESIGN D16). A position means something only within one: after
-- a restore, a point in time, or a failover that lost commits, the positions of what is gone
-- are given again, to something else.
-- Locks: none, a new table.

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
