-- What the rules remember. Derived: rebuilt by replaying the log.

-- Of a patient, a rule's state; `_facts` is what rules have to know of the patient.
create table rule_state (
    shard      smallint    not null,
    tenant     text        not null,
    patient_id text        not null,
    rule       text        not null,
    state      json        not null,
    due_at     timestamptz,            -- when time alone moves it; saved with the state
    primary key (shard, tenant, patient_id, rule)
);
create index rule_state_due on rule_state (shard, due_at) where due_at is not null;

-- Of a tenant's own stream, at the rules' checkpoint of a shard: the newest version of each
-- rule, and the silences.
create table rule_memory (
    shard    smallint not null,
    tenant   text     not null,
    kind     text     not null check (kind in ('rule', 'silence')),
    id       text     not null,
    data     json     not null,   -- of the event
    position bigint   not null,   -- of the event
    primary key (shard, tenant, kind, id)
);
