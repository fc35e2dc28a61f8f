-- Opens a breaker, or opens it again after a probe that failed. Twice the pause each time.
-- No row: another instance was first, or the endpoint is not active.
--
-- $2: why   $3, $4: first and longest pause in seconds   $5: jitter, 0.5–1   $6: at least
insert into breaker as b (endpoint_id, state, openings, until, since, reason)
select e.id, 'open', 1, clock_timestamp() + make_interval(secs => greatest($3 * $5, $6)),
       clock_timestamp(), $2
from endpoint e
where e.id = $1 and e.state = 'active'
on conflict (endpoint_id) do update
   set state = 'open', openings = b.openings + 1, reason = excluded.reason,
       until = clock_timestamp() + make_interval(secs =>
           greatest(least($3 * power(2, least(b.openings, 20)), $4) * $5, $6))
 where b.state = 'half_open'
returning b.openings, (select tenant from endpoint where id = $1)
