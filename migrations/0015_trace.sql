-- What is known of the trace of a reading on its way to the rules, and of an alert on its way to
-- a receiver (decision 0041). A new table, and a column that may be null and has no default:
-- nothing is rewritten, and the lock on `delivery` is held for a moment.

-- Of readings of a request that is recorded, and of no others: what the rules need to go on with
-- its trace. No part of the log, and of no worth once the rules have read that far, when it is
-- swept; so it is unlogged, and lost in a crash.
create unlogged table trace (
    shard         smallint    not null,
    position_to   bigint      not null,   -- of the last reading
    position_from bigint      not null,   -- of the first
    context       text        not null,   -- W3C's traceparent, and after a space its tracestate
    made_at       timestamptz not null default clock_timestamp(),
    primary key (shard, position_to)
);

-- The context that the attempts of a delivery follow from.
alter table delivery add column trace text;
