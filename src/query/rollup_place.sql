-- How far consumer $4 has folded the shard $1, and whether what it has folded of a patient
-- can be used: they are not parked, and nothing of what is folded was retracted since.
select c.position, h.position as head,
       not exists (select from parked
                   where shard = $1 and consumer = $4 and tenant = $2 and patient_id = $3)
       and not exists (
           select from non_reading
           where shard = $1 and position > c.position and tenant = $2 and patient_id = $3
             and type = 'reading_retracted') as usable
from checkpoint c
join shard_head h on h.shard = c.shard
where c.consumer = $4 and c.shard = $1
