-- What a hospital needs of its pages: numbers without gaps, order by alert, a breaker
-- that all instances see, a fallback, and why a delivery is dead (DESIGN D9).
-- Locks: `endpoint` and `delivery` exclusively, for as long as numbering the deliveries
-- that are there takes (each row is written once). New rows wait, pages with them: with
-- millions of old deliveries migrate when the ward is calm.

-- fallback: gets the high alarms that another endpoint of the tenant cannot take.
-- ordered: of one alert, the next delivery goes out when the one before is done.
alter table endpoint
    add column fallback boolean not null default false,
    add column ordered  boolean not null default false;

alter table delivery
    add column sequence bigint,                                 -- of the endpoint, from 1
    add column alert_id uuid,
    add column priority text,
    add column class    text    not null default 'alarm' check (class in ('alarm', 'record')),
    add column ordered  boolean not null default false,
    add column reason   text;                                   -- why it is dead

-- The last number that an endpoint's deliveries have got. Apart from `endpoint`, which
-- is read by everybody and written by people.
create table endpoint_sequence (
    endpoint_id uuid   primary key,
    last        bigint not null
) with (fillfactor = 50);

with numbered as (
    select shard, position, endpoint_id,
           row_number() over (partition by endpoint_id order by created_at, shard, position) as sequence
    from delivery
), told as (
    update delivery d set sequence = n.sequence
    from numbered n
    where d.shard = n.shard and d.position = n.position and d.endpoint_id = n.endpoint_id
)
insert into endpoint_sequence (endpoint_id, last)
select endpoint_id, max(sequence) from numbered group by endpoint_id;

create unique index delivery_sequence on delivery (endpoint_id, sequence);

-- Small: of those that wait, only where order or superseding asks for it.
create index delivery_of_alert on delivery (alert_id, endpoint_id, position)
    where state = 'pending' and (ordered or priority = 'low');

-- An endpoint that does not take what it is sent. No row: closed.
create table breaker (
    endpoint_id uuid        primary key,
    state       text        not null check (state in ('open', 'half_open')),
    openings    integer     not null,   -- in a row; each pause is longer
    until       timestamptz not null,   -- of the pause, or of the probe's lease
    since       timestamptz not null,
    reason      text        not null
);
