-- The newest reading of every vital of every patient.
create table current_vitals (
    shard       smallint    not null,
    tenant      text        not null,
    patient_id  text        not null,
    vital       vital       not null,
    value       float8      not null,
    quality     real,
    suspect     boolean     not null,
    occurred_at timestamptz not null,
    recorded_at timestamptz not null,
    source_id   text        not null,
    position    bigint      not null,
    primary key (shard, tenant, patient_id, vital)
) with (fillfactor = 70);

-- The directory: every patient that was registered or ever sent a reading.
create table patient (
    shard      smallint    not null,
    tenant     text        not null,
    patient_id text        not null,
    first_seen timestamptz not null,   -- when we first heard of them
    ward       text,
    record     text,                   -- json: the record as it was last registered
    position   bigint,                 -- of that registration
    primary key (shard, tenant, patient_id)
);
