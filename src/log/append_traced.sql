-- An append, and the traces of some of its events, in one statement: a
-- transaction, and a round trip. Positions are the head's and what follows; of readings that the
-- log had already there is none, and the next append gets theirs.
--
-- $1–$20 as append_events takes them   $21, $22: first and last of events that follow each other,
-- counted from 1   $23: the context of their trace
with appended as materialized (
    select * from append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
                                $20)
), traced as (
    insert into trace (shard, position_to, position_from, context)
    select $1, least(a.head + t.last, coalesce(a.stored[cardinality(a.stored)], a.head + t.last)),
           a.head + t.first, t.context
    from appended a
    cross join unnest($21::integer[], $22::integer[], $23::text[]) as t (first, last, context)
    where a.head is not null and cardinality(a.stored) is distinct from 0
      and a.head + t.first <= coalesce(a.stored[cardinality(a.stored)], a.head + t.last)
    -- Of a log that was restored, and whose positions are given again.
    on conflict (shard, position_to) do update
        set position_from = excluded.position_from, context = excluded.context, made_at = excluded.made_at
)
select * from appended
