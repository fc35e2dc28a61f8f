-- Every alert and what became of it.
create table alert (
    shard            smallint    not null,
    tenant           text        not null,
    patient_id       text        not null,
    id               uuid        not null,
    state            text        not null,   -- active, cleared, missed, retracted
    event            text,
    priority         text,
    rule             text,
    rule_version     integer,
    vital            vital,
    value            float8,
    unit             text,
    device_id        text,
    since            timestamptz,            -- when it was true
    raised_at        timestamptz,            -- when we learned it
    reading_position bigint,
    cleared_since    timestamptz,
    cleared_value    float8,
    acknowledged     text,                   -- json: by, at, note
    position         bigint      not null,   -- of the last event about it
    primary key (shard, tenant, patient_id, id)
);
create index alert_active on alert (shard, tenant, patient_id) where state = 'active';
create index alert_since on alert (shard, tenant, since);
create index alert_id on alert (shard, id);
