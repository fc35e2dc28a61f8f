-- What sends readings: when it was last heard of, and how much of each hour it covered.
-- A reading that was retracted was received all the same: its value was wrong, and the
-- device was not silent.
create table device (
    shard      smallint    not null,
    tenant     text        not null,
    patient_id text        not null,
    device_id  text        not null,
    last_seen  timestamptz not null,   -- by the device's clock
    primary key (shard, tenant, patient_id, device_id)
) with (fillfactor = 70);
create index device_by_id on device (tenant, device_id);
create table device_hour (
    shard      smallint    not null,
    tenant     text        not null,
    patient_id text        not null,
    device_id  text        not null,
    start      timestamptz not null,
    readings   bigint      not null,
    suspects   bigint      not null,   -- of them
    minutes    bigint      not null,   -- a bit for each minute that has a reading
    delay_min  interval    not null,   -- from measured to recorded; negative: a clock ahead
    last_recorded timestamptz not null,
    primary key (shard, tenant, patient_id, device_id, start)
) with (fillfactor = 80);
