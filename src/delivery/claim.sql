-- Claims due deliveries: for each active endpoint as many as this process has room for,
-- so that one that hangs holds only its own; taken in turns between tenants, and within
-- a tenant between endpoints. The lease is `due_at` pushed forward, the fencing token is
-- the number of the attempt.
--
-- Of an endpoint whose breaker is not closed nothing is taken, but for one delivery where
-- it is to be probed. Of an endpoint that wants order, nothing of an alert of which
-- something earlier still waits.
--
-- $1, $2: endpoints and how many more this process takes of each; $3: of the others
-- $4: lease in seconds   $5: how many at most   $6: endpoints to probe
with recursive waiting as (
    -- The endpoints for which something waits, by hopping along the index: the cost is
    -- theirs, however many endpoints there are.
    (select endpoint_id from delivery where state = 'pending' order by endpoint_id limit 1)
    union all
    select (select d.endpoint_id from delivery d
            where d.state = 'pending' and d.endpoint_id > w.endpoint_id
            order by d.endpoint_id limit 1)
    from waiting w
    where w.endpoint_id is not null
), picked as (
    select d.shard, d.position, d.endpoint_id, d.due_at, e.tenant, e.version,
           b.endpoint_id is not null as probe,
           row_number() over (partition by e.id order by d.due_at) as nth
    from waiting w
    join endpoint e on e.id = w.endpoint_id
    left join breaker b on b.endpoint_id = e.id
    left join unnest($1::uuid[], $2::bigint[]) as own (endpoint_id, room) on own.endpoint_id = e.id
    cross join lateral (
        select c.shard, c.position, c.endpoint_id, c.due_at
        from delivery c
        where c.endpoint_id = w.endpoint_id and c.state = 'pending' and c.due_at <= statement_timestamp()
          and not (c.ordered and exists (
                select from delivery before
                where before.alert_id = c.alert_id and before.endpoint_id = c.endpoint_id
                  and before.position < c.position and before.state = 'pending' and before.ordered))
        order by c.due_at
        -- Looked at are twice as many as are taken, however many endpoints wait.
        limit case when b.endpoint_id is null
                   then least(coalesce(own.room, $3), 1 + 2 * $5 / (select count(*) from waiting))
                   when e.id = any ($6::uuid[]) then 1 else 0 end
    ) d
    where e.state = 'active'
), in_turn as (
    select * from picked
    order by row_number() over (partition by tenant order by nth, due_at), due_at
    limit $5
), locked as (
    -- Only what is taken is locked. What another instance holds is left to it, and what it
    -- has just claimed is not due any more when its row is looked at again here.
    select d.shard, d.position, d.endpoint_id, t.probe, t.version
    from in_turn t
    join delivery d using (shard, position, endpoint_id)
    -- By its key, as in record.sql.
    where d.state not in ('delivered', 'dead') and d.due_at <= statement_timestamp()
    for update of d skip locked
)
update delivery d
   set attempts = d.attempts + 1,
       due_at = clock_timestamp() + make_interval(secs => $4)
  from locked t
 where d.shard = t.shard and d.position = t.position and d.endpoint_id = t.endpoint_id
returning d.shard, d.position, d.endpoint_id, d.id, d.tenant, d.webhook_id, d.sequence, d.class,
          d.priority is not distinct from 'high' as is_high, d.ordered, d.attempts, d.attempts_before, d.body,
          (extract(epoch from clock_timestamp() - coalesce(d.replayed_at, d.created_at)))::float8 as age_seconds,
          t.probe, t.version, d.trace
