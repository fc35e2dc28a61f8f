-- Who has read and changed what (decision 0036): accesses of a tenant in the order of time, and
-- those of somebody. Whose data it was is the stream's name, which has an index. Built under a
-- lock that lets nobody append what is no reading, of which there is little.
create index non_reading_access on non_reading (shard, tenant, occurred_at, position)
    where type = 'access';
create index non_reading_access_by on non_reading (shard, tenant, source_id, occurred_at, position)
    where type = 'access';

-- How far accesses were told elsewhere, and who tells them: no checkpoint, for months leave
-- the log however long a receiver is away.
create table audit_export (
    name        text        primary key,
    positions   bigint[]    not null,      -- of each shard, the last that was taken
    holder      uuid,
    lease_until timestamptz not null default '-infinity'
);
