-- Takes the endpoints whose heartbeat is due ($1 at most) and moves them on to their next.
-- One whose last heartbeat ($2) still waits is moved on without being taken: `waits` is
-- answered by delivery_due. Another instance's are passed by.
with due as (
    select e.id, exists (select 1 from delivery d
                         where d.endpoint_id = e.id and d.state = 'pending' and d.event = $2) as waits
    from endpoint e
    where e.heartbeat_seconds is not null and e.state = 'active'
      and e.heartbeat_due_at <= statement_timestamp()
    order by e.heartbeat_due_at
    limit $1
    for update of e skip locked
), moved as (
    update endpoint e
       set heartbeat_due_at = clock_timestamp() + make_interval(secs => e.heartbeat_seconds)
      from due
     where e.id = due.id
    returning e.id, e.tenant, e.heartbeat_seconds, clock_timestamp() as now, due.waits
)
select id, tenant, heartbeat_seconds, now from moved where not waits
