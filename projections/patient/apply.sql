-- follows: everything
-- pace: 250 ms
--
-- Folds shard $1, positions ($2, $3], which lie in the times [$4, $5].
with heard_of as (
    select tenant, patient_id, min(recorded_at) as recorded_at
    from (
        -- "offset 0": found by position, then grouped. To group in an index's order, a plan
        -- read all of the month.
        select tenant, patient_id, recorded_at
        from event
        where shard = $1 and position > $2 and position <= $3
          and occurred_at >= $4 and occurred_at <= $5
          and type in ('reading', 'patient_registered')
        offset 0
    ) heard
    group by tenant, patient_id
-- Few, and found by the index of what is no reading.
), registered as (
    select distinct on (tenant, patient_id)
           tenant, patient_id, data -> 'record' as record, position
    from event
    where shard = $1 and position > $2 and position <= $3
      and occurred_at >= $4 and occurred_at <= $5
      and type <> 'reading' and type = 'patient_registered'
    order by tenant, patient_id, position desc
)
insert into patient as p
select $1, tenant, patient_id, heard_of.recorded_at, record ->> 'ward', record::text, position
from heard_of
left join registered using (tenant, patient_id)
-- Whom the table knows, only if something was registered: a conflict would lock the row.
where position is not null
   or coalesce((select false from patient known
                where known.shard = $1 and known.tenant = heard_of.tenant
                  and known.patient_id = heard_of.patient_id), true)
on conflict (shard, tenant, patient_id) do update
   set ward = excluded.ward, record = excluded.record, position = excluded.position
 where excluded.position is not null
