-- What shard $1 should hold at position $2, of the patients ($3, $4) or of all when these
-- are null, recomputed by another road (window function instead of upserts, retractions by
-- natural key and not by position, the last registration joined to who was heard of),
-- against what it holds. No row means correct.
with said as materialized (
    -- Read once: looked for at every reading, each would cost all readings of its patient.
    select tenant, patient_id, type, data, recorded_at, position
    from non_reading
    where shard = $1 and position <= $2
      and type in ('reading_retracted', 'patient_registered')
      -- By each key as well, for the index: it finds no pairs.
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
), retracted as materialized (
    select tenant, patient_id, (data ->> 'vital')::vital as vital,
           (data ->> 'measuredAt')::timestamptz as occurred_at, data ->> 'deviceId' as source_id
    from said where type = 'reading_retracted'
), chosen as materialized (
    select series, tenant, patient_id, vital, source_id
    from series
    where shard = $1
      and ($3::text[] is null or tenant = any ($3) and patient_id = any ($4)
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[])))
), measured as materialized (
    select c.tenant, c.patient_id, c.vital, c.source_id, r.value, r.quality, r.suspect,
           r.occurred_at, r.recorded_at, r.position
    from chosen c
    join reading r on r.shard = $1 and r.series = c.series and r.position <= $2
), heard as (
    select tenant, patient_id, min(recorded_at) as first_seen
    from (select tenant, patient_id, recorded_at from measured
          union all
          select tenant, patient_id, recorded_at from said where type = 'patient_registered') of
    group by tenant, patient_id
), registered as (
    select distinct on (tenant, patient_id) tenant, patient_id, data -> 'record' as record, position
    from said where type = 'patient_registered'
    order by tenant, patient_id, position desc
), expected as (
    select tenant, patient_id, vital::text as what,
           row(value, quality, suspect, occurred_at, recorded_at, source_id, position)::text as holds
    from (select *, row_number() over (partition by tenant, patient_id, vital
                                       order by occurred_at desc, position desc) as place
          from measured m
          where not exists (select from retracted r
                            where r.tenant = m.tenant and r.patient_id = m.patient_id
                              and r.vital = m.vital and r.occurred_at = m.occurred_at
                              and r.source_id = m.source_id)) ranked
    where place = 1
    union all
    select tenant, patient_id, 'record',
           row(first_seen, record ->> 'ward', record::text, position)::text
    from heard left join registered using (tenant, patient_id)
), found as (
    select tenant, patient_id, what, holds
    from (
        select tenant, patient_id, vital::text as what,
               row(value, quality, suspect, occurred_at, recorded_at, source_id, position)::text as holds
        from current_vitals where shard = $1
        union all
        select tenant, patient_id, 'record', row(first_seen, ward, record, position)::text
        from patient where shard = $1
    ) held
    where $3::text[] is null
       or tenant = any ($3) and patient_id = any ($4)
          and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[]))
)
select coalesce(e.tenant, f.tenant) || '/' || coalesce(e.patient_id, f.patient_id)
         || '/' || coalesce(e.what, f.what) as key,
       e.holds as expected, f.holds as found
from expected e
full join found f using (tenant, patient_id, what)
where e.holds is distinct from f.holds
