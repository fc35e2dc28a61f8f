-- A range of an endpoint's finished deliveries, due now, the oldest first by their old
-- place. Counts before it touches: above $7 nothing changes, and the caller is told.
with meant as (
    select shard, position, endpoint_id
    from delivery
    where endpoint_id = $2 and tenant = $1 and created_at >= $3 and created_at < $4
      and state <> 'pending'
      and ($5::text is null or state = $5) and ($6::text is null or event = $6)
), counted as (
    select count(*) as found from meant
), replayed as (
    update delivery d
       set state = 'pending',
           due_at = clock_timestamp(),
           replayed_at = clock_timestamp(),
           attempts_before = d.attempts,
           finished_at = null
      from meant m, counted
     where counted.found <= $7
       and d.shard = m.shard and d.position = m.position and d.endpoint_id = m.endpoint_id
    returning 1
)
select counted.found, (select count(*) from replayed) from counted
