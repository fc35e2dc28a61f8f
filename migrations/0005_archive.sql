-- The archive: months that have left the database, and where months begin.
-- Locks: installation is locked for a moment; its new column does not rewrite it.

-- One row a partition whose rows are in a Parquet file. What is left in the table
-- (what is no reading, the newest reading of each vital and device of a patient, and
-- the first one of a patient) refuses inserts by a constraint named month_archived.
create table archived_month (
    partition    text        primary key,   -- event_2025_12, or event_2019
    since        timestamptz not null,      -- the times that it holds: [since, until)
    until        timestamptz not null,
    location     text        not null,      -- of the file: a path, or s3://…
    rows         bigint      not null,      -- in the file
    kept         bigint      not null,      -- of them, also in the table
    bytes        bigint      not null,      -- of the file
    file_hash    bytea       not null,      -- its SHA-256
    rows_hash    bytea       not null,      -- SHA-256 over its rows' digests, in order
    positions_to bigint[]    not null,      -- its last position in each shard, from 0 on
    archived_at  timestamptz not null default clock_timestamp()
);

-- Times from January of this year on have a partition a month, those before it, back
-- to 2000, one a year, so that a clock that runs wild makes few. Existing databases
-- keep their months.
alter table installation add column months_from smallint not null default 2000
    check (months_from between 2000 and 9999);
