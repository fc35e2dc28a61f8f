-- Endpoints whose pause is over and for which something is due: one delivery of each may
-- go out. The instance that finds one here has it for the lease, so that instances do not probe
-- together. $1: lease in seconds
with over as (
    select b.endpoint_id from breaker b
    cross join lateral (
        select from delivery d
        where d.endpoint_id = b.endpoint_id and d.state = 'pending' and d.due_at <= statement_timestamp()
        limit 1
    ) due
    where b.until <= statement_timestamp()
    for update of b skip locked
)
update breaker b
   set state = 'half_open', until = clock_timestamp() + make_interval(secs => $1)
  from over
 where b.endpoint_id = over.endpoint_id
returning b.endpoint_id
