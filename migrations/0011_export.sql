-- Exports: the bytes of a table that a job writes, in parts, so that every instance can hand
-- them out and one that dies leaves what it has written to another. New tables; no lock.

-- How far an export is. Of a job; it goes after it, or when it has expired.
create table export (
    job        uuid        primary key,
    tenant     text        not null,
    heads      bigint[]    not null,             -- each shard's last position as it began: what it shows
    bytes      bigint      not null default 0,   -- in its parts
    readings   bigint      not null default 0,   -- in them
    patients   bigint      not null default 0,   -- of whom there are any
    place      json,                             -- of the last reading in them; src/export/place.rs
    hash       bytea,                            -- SHA-256 of them, as far as it is
    expires_at timestamptz                       -- null: it is not whole yet
);

-- A part, by the place of its first byte. Its bytes are compressed or sealed as they are, or
-- soon read: PostgreSQL need not try.
create table export_part (
    job    uuid   not null,
    first  bigint not null,
    tenant text   not null,
    data   bytea  not null,
    primary key (job, first)
);
alter table export_part alter column data set storage external;
