-- Those of tenant $2's patients ($1: their shards, $3: their ids) whose newest record, an event
-- of type $4, says one of wards $5.
select p.patient_id
from unnest ($1::smallint[], $3::text[]) as p (shard, patient_id)
cross join lateral (
    select data -> 'record' ->> 'ward' as ward
    from non_reading
    where shard = p.shard and tenant = $2 and patient_id = p.patient_id and type = $4
    order by occurred_at desc, position desc
    limit 1
) said
where said.ward = any ($5)
