-- What rules on trial would have raised, and what became of it. A table of its own, so that
-- nobody who asks for alerts takes one for a page.
create table shadow_alert (
    shard         smallint    not null,
    tenant        text        not null,
    patient_id    text        not null,
    id            uuid        not null,
    state         text        not null,   -- active, cleared, missed, retracted
    event         text,
    priority      text,
    rule          text,
    rule_version  integer,
    vital         vital,
    value         float8,
    unit          text,
    device_id     text,
    since         timestamptz,            -- when it was true
    raised_at     timestamptz,            -- when we learned it
    cleared_since timestamptz,
    cleared_value float8,
    position      bigint      not null,   -- of the last event about it
    primary key (shard, tenant, patient_id, id)
);
create index shadow_alert_since on shadow_alert (shard, tenant, since);

-- Pages a day (UTC), patient and version of a rule: those that went out, and those that
-- would have while it was on trial. What a silence held back is none.
create table page_day (
    shard        smallint not null,
    tenant       text     not null,
    patient_id   text     not null,
    rule         text     not null,
    rule_version integer  not null,
    day          date     not null,
    shadow       boolean  not null,
    pages        bigint   not null,
    primary key (shard, tenant, patient_id, rule, rule_version, day, shadow)
);
create index page_day_rule on page_day (shard, tenant, rule, day);
