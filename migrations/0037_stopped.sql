-- Where a consumer has stopped, and at what, so that who asks any instance is told. Locks:
-- none, a new table.

-- A row counts as long as the consumer's checkpoint stands where it stood: whoever goes on
-- need not come here to say so.
create table stopped (
    shard    smallint    not null,
    consumer text        not null,
    position bigint      not null,   -- of the checkpoint: what comes next cannot be acted on
    reason   text        not null,
    since    timestamptz not null default clock_timestamp(),
    primary key (shard, consumer)
);
