-- Gives back what was claimed and never sent: due at once, for any instance. The number
-- of the attempt is free again; only who holds it ($4) may.
update delivery d
   set due_at = clock_timestamp(), attempts = d.attempts - 1
  from unnest($1::smallint[], $2::bigint[], $3::uuid[], $4::int[], $5::uuid[])
       as r (shard, position, endpoint_id, number, delivery_id)
 where d.shard = r.shard and d.position = r.position and d.endpoint_id = r.endpoint_id
   -- By its key, as in record.sql.
   and d.state not in ('delivered', 'dead') and d.attempts = r.number
   and (d.id = r.delivery_id) is true
