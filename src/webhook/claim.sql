-- Claims due deliveries: for each active endpoint as many as it has free slots, so
-- that one that hangs holds only its own. The lease is `due_at` pushed forward, the
-- fencing token is the number of the attempt.
--
-- $1, $2: endpoints and how many of their slots are in use in this process
-- $3: slots an endpoint   $4: lease in seconds   $5: attempts that this process has room for
with picked as (
    select d.shard, d.position, d.endpoint_id, e.url, e.secret
    from endpoint e
    left join unnest($1::uuid[], $2::bigint[]) as busy (endpoint_id, slots) on busy.endpoint_id = e.id
    cross join lateral (
        select shard, position, endpoint_id, due_at
        from delivery
        where endpoint_id = e.id and state = 'pending' and due_at <= statement_timestamp()
        order by due_at
        limit greatest($3 - coalesce(busy.slots, 0), 0)
        for update skip locked
    ) d
    where e.state = 'active'
    order by d.due_at
    limit $5
)
update delivery d
   set attempts = d.attempts + 1,
       due_at = clock_timestamp() + make_interval(secs => $4)
  from picked p
 where d.shard = p.shard and d.position = p.position and d.endpoint_id = p.endpoint_id
returning d.shard, d.position, d.endpoint_id, d.id, d.webhook_id, d.body, d.attempts,
          (extract(epoch from clock_timestamp() - d.created_at))::float8 as age_seconds,
          p.url, p.secret
