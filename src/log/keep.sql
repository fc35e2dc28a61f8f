-- Copies into {thin} what must stay in the table when {table} is archived, up to
-- position $2 of each shard $1:
--   what is no reading;
--   of each patient, vital and device the newest reading that was not retracted: the
--   present, and every moment after this month, is made of these, also for a token of
--   one device;
--   every reading that was retracted: it counted until then;
--   of each patient the reading that was recorded first: since when they are known.
with reading as (
    select e.shard, e.position, e.tenant, e.patient_id, e.vital, e.source_id, e.occurred_at
    from {table} e
    join unnest($1::smallint[], $2::bigint[]) as upto (shard, position)
      on e.shard = upto.shard and e.position <= upto.position
    where e.type = 'reading'
), retracted as (
    -- At the reading's own time, so in the same partition.
    select e.shard, (e.data ->> 'readingPosition')::bigint as position
    from {table} e
    join unnest($1::smallint[], $2::bigint[]) as upto (shard, position)
      on e.shard = upto.shard and e.position <= upto.position
    where e.type = 'reading_retracted'
), newest as (
    -- The natural key: there is one such reading.
    select shard, tenant, patient_id, vital, source_id, max(occurred_at) as occurred_at
    from reading
    where not exists (select from retracted r
                      where r.shard = reading.shard and r.position = reading.position)
    group by shard, tenant, patient_id, vital, source_id
), kept as (
    select e.shard, e.position
    from newest n
    join {table} e on e.shard = n.shard and e.tenant = n.tenant and e.patient_id = n.patient_id
                  and e.vital = n.vital and e.occurred_at = n.occurred_at and e.source_id = n.source_id
    union
    select shard, position from retracted
    union
    select shard, min(position) from reading group by shard, tenant, patient_id
    union
    select e.shard, e.position
    from {table} e
    join unnest($1::smallint[], $2::bigint[]) as upto (shard, position)
      on e.shard = upto.shard and e.position <= upto.position
    where e.type <> 'reading'
)
insert into {thin}
select e.* from kept k join {table} e on e.shard = k.shard and e.position = k.position
