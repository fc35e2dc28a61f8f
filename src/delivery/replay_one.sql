-- One delivery, due now, on a schedule that begins now. An attempt that is under way is
-- left alone, so that no second one runs beside it: it has been counted (`attempts`) and
-- its outcome is not recorded yet. Nor is one touched whose endpoint is gone.
update delivery d
   set state = 'pending',
       due_at = clock_timestamp(),
       replayed_at = clock_timestamp(),
       attempts_before = d.attempts,
       finished_at = null
 where d.tenant = $1 and d.id = $2
   and (d.state <> 'pending' or d.attempts = 0
        or exists (select 1 from attempt a
                   where a.shard = d.shard and a.delivery_id = d.id and a.number = d.attempts))
   and exists (select 1 from endpoint e where e.tenant = $1 and e.id = d.endpoint_id)
