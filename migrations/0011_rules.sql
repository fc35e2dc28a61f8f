-- Rules of tenants, and when time alone moves a rule's state.
-- Locks: rule_state is locked for a moment; its new column does not rewrite it. The
-- index is built under a lock that holds up the rules: the table has a row for each
-- patient of whom a rule remembers something, and no more.

-- The index of what is due: a state and its time are saved by one statement.
alter table rule_state add column due_at timestamptz;
create index rule_state_due on rule_state (shard, due_at) where due_at is not null;

-- What of a tenant's own stream the rules have read, at their checkpoint of a shard:
-- the newest version of each rule, and the silences. Derived from the log.
create table rule_book (
    shard    smallint not null,
    tenant   text     not null,
    kind     text     not null check (kind in ('rule', 'silence')),
    id       text     not null,
    data     json     not null,   -- of the event
    position bigint   not null,   -- of the event
    primary key (shard, tenant, kind, id)
);

-- What rules have to know of a patient is remembered beside their states. Whoever was
-- registered before this is taken over here, as far as the rules have read.
insert into rule_state (shard, tenant, patient_id, rule, state)
select distinct on (e.shard, e.tenant, e.patient_id) e.shard, e.tenant, e.patient_id, '_facts',
       json_strip_nulls(json_build_object(
           'ward', e.data -> 'record' -> 'ward',
           'birth_date', e.data -> 'record' -> 'birthDate',
           'scale_2', e.data -> 'record' ->> 'spo2Scale' = '2'))
from event e
join checkpoint c on c.shard = e.shard and c.consumer = 'rules' and e.position <= c.position
where e.type = 'patient_registered' and e.type <> 'reading'
order by e.shard, e.tenant, e.patient_id, e.position desc;
