-- Rows of shard $1 that come back from an archive, as they were.
insert into {full} (shard, position, recorded_at, tenant, patient_id, type, vital, value, quality,
                    suspect, occurred_at, source_id, data)
select $1, r.position, r.recorded_at, r.tenant, r.patient_id, r.type, r.vital::vital, r.value, r.quality,
       r.suspect, r.occurred_at, r.source_id, r.data::json
from unnest($2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[],
            $8::float8[], $9::real[], $10::boolean[], $11::timestamptz[], $12::text[], $13::text[])
     as r (position, recorded_at, tenant, patient_id, type, vital, value, quality,
           suspect, occurred_at, source_id, data)
