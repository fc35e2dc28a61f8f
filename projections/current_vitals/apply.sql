-- Folds shard $1, positions ($2, $3], which lie in the times [$4, $5].
-- "Newest" is by the time it was measured; of two at one instant, the later position.
insert into current_vitals as c
select distinct on (tenant, patient_id, vital)
       shard, tenant, patient_id, vital, value, quality, suspect,
       occurred_at, recorded_at, source_id, position
from event
where shard = $1 and position > $2 and position <= $3
  and occurred_at >= $4 and occurred_at <= $5
  and type = 'reading'
order by tenant, patient_id, vital, occurred_at desc, position desc
on conflict (shard, tenant, patient_id, vital) do update
   set value = excluded.value, quality = excluded.quality, suspect = excluded.suspect,
       occurred_at = excluded.occurred_at, recorded_at = excluded.recorded_at,
       source_id = excluded.source_id, position = excluded.position
 where (excluded.occurred_at, excluded.position) > (c.occurred_at, c.position)
