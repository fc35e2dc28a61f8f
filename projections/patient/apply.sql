-- Folds shard $1, positions ($2, $3], which lie in the times [$4, $5].
insert into patient as p
select $1, tenant, patient_id, min(recorded_at),
       (array_agg(data -> 'record' ->> 'ward' order by position desc) filter (where type = 'patient_registered'))[1],
       (array_agg(data ->> 'record' order by position desc) filter (where type = 'patient_registered'))[1],
       max(position) filter (where type = 'patient_registered')
from event
where shard = $1 and position > $2 and position <= $3
  and occurred_at >= $4 and occurred_at <= $5
  and type in ('reading', 'patient_registered')
group by tenant, patient_id
on conflict (shard, tenant, patient_id) do update
   set ward = excluded.ward, record = excluded.record, position = excluded.position
 where excluded.position is not null
