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
