-- What each hour of a patient's vital was: for trends and downsampling. Buckets are
-- counted from 1970, as those of the history. Suspect readings are in them, as they are
-- in the history; how many they are is told beside. What was retracted is not.
create table vital_hour (
    shard      smallint    not null,
    tenant     text        not null,
    patient_id text        not null,
    vital      vital       not null,
    start      timestamptz not null,
    count      bigint      not null,
    suspects   bigint      not null,   -- of them
    min        float8      not null,
    max        float8      not null,
    -- Of the values, each rounded to millionths of its unit: whole numbers add up to the
    -- same in any order, and floats do not.
    sum_millionths numeric not null,
    primary key (shard, tenant, patient_id, vital, start)
) with (fillfactor = 80);
