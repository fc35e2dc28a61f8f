-- What each minute and each hour was: of a series, for trends and downsampling, and of what
-- sends the readings. Counted from 1970, as the buckets of the history.
--
-- Suspect readings are in the buckets, as they are in the history; how many they are is
-- told beside. What was retracted is not.
create table series_minute (
    start      timestamptz not null,
    count      bigint      not null,
    suspects   bigint      not null,   -- of them
    min        float8      not null,
    max        float8      not null,
    series     integer     not null,
    shard      smallint    not null,
    -- Of the values, each rounded to millionths of its unit: whole numbers add up to the
    -- same in any order, and floats do not.
    sum_millionths numeric not null,
    primary key (shard, series, start)
) with (fillfactor = 80);

create table series_hour (like series_minute including all) with (fillfactor = 80);

-- When a device was last heard of, and how much of each hour it covered. A reading that
-- was retracted was received all the same: its value was wrong, and the device was not
-- silent.
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
