-- Consumers and where they stand (DESIGN D6). Locks: none that matter, new tables.

create table checkpoint (
    consumer text     not null,
    shard    smallint not null,
    position bigint   not null default 0,
    primary key (shard, consumer)
) with (fillfactor = 50);

-- Which text of a projection's SQL its table was made by. Another text means that
-- the table is rebuilt from the log.
create table projection (
    name     text primary key,
    sql_hash text not null
);

-- What the rules remember of a patient. Derived: rebuilt by replaying the log.
create table rule_state (
    shard      smallint not null,
    tenant     text     not null,
    patient_id text     not null,
    rule       text     not null,
    state      json     not null,
    primary key (shard, tenant, patient_id, rule)
);
