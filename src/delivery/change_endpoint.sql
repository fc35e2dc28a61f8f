-- Changes what is given and leaves what is null. Three things can also be taken away, so
-- whether they are given stands beside them: $7 headers, $10 the certificate, $14 the
-- heartbeat. Making an endpoint active clears the reason why it was not. The version
-- tells the processes that what they know of the endpoint is old. A new URL or state is a
-- new chance: the breaker closes, and what waits for its next attempt is due now, a
-- thousand of them at most; an attempt under way is left alone, as in replay_one.sql.
with chance as (
    delete from breaker b using endpoint e
    where b.endpoint_id = $2 and e.id = $2 and e.tenant = $1
      and ($3::text is not null or $6::text is not null)
), again as (
    update delivery d set due_at = clock_timestamp()
      from (select w.shard, w.position, w.endpoint_id
            from delivery w join endpoint e on e.id = w.endpoint_id
            where w.endpoint_id = $2 and e.tenant = $1
              and ($3::text is not null or $6::text is not null)
              and w.state = 'pending' and w.due_at > clock_timestamp()
              and exists (select from attempt a
                          where a.shard = w.shard and a.delivery_id = w.id and a.number = w.attempts)
            order by w.due_at
            limit 1000
            for update of w skip locked) waiting
     where d.shard = waiting.shard and d.position = waiting.position
       and d.endpoint_id = waiting.endpoint_id
)
update endpoint
   set url = coalesce($3, url),
       events = coalesce($4, events),
       description = coalesce($5, description),
       state = coalesce($6, state),
       reason = case when $6 is null then reason end,
       headers = case when $7 then $8 else headers end,
       header_names = case when $7 then $9 else header_names end,
       client_certificate = case when $10 then $11 else client_certificate end,
       client_key = case when $10 then $12 else client_key end,
       payload = coalesce($13, payload),
       heartbeat_seconds = case when $14 then $15 else heartbeat_seconds end,
       -- The first one comes when it is asked for: it is known at once that the way works.
       heartbeat_due_at = case when $14 then clock_timestamp() else heartbeat_due_at end,
       fallback = coalesce($16, fallback),
       ordered = coalesce($17, ordered),
       version = version + 1
 where tenant = $1 and id = $2
returning *
