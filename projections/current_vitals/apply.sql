-- follows: everything
-- pace: 50 ms
--
-- Folds shard $1, positions ($2, $3], which lie in the times [$4, $5].
-- "Newest" is by the time it was measured; of two at one instant, the later position.
with retracted as materialized (
    -- Almost always none.
    select tenant, patient_id, (data ->> 'vital')::vital as vital,
           -- Read here, so that a retraction that nobody can read is not passed over.
           (data ->> 'readingPosition')::bigint as position
    from non_reading
    where shard = $1 and position > $2 and position <= $3 and type = 'reading_retracted'
), again as materialized (
    -- Who lost a reading gets the newest that is left: the log is asked, and only by this
    -- window's end. A retraction lies at its reading's own time.
    select k.tenant, k.patient_id, k.vital, n.value, n.quality, n.suspect, n.occurred_at,
           n.recorded_at, n.source_id, n.position
    from (select distinct tenant, patient_id, vital from retracted) k
    left join lateral (
        select e.*, s.source_id
        from series s
        cross join lateral (
            select value, quality, suspect, occurred_at, recorded_at, position
            from reading r
            where r.shard = $1 and r.series = s.series and r.position + 0 <= $3
              and not exists (
                  select from non_reading x
                  where x.shard = $1 and x.tenant = k.tenant and x.patient_id = k.patient_id
                    and x.occurred_at = r.occurred_at and x.position + 0 <= $3
                    and x.type = 'reading_retracted'
                    and (x.data ->> 'readingPosition')::bigint = r.position
                  -- One look a row, and not a join with all that is no reading.
                  offset 0)
            order by occurred_at desc
            limit 1
        ) e
        where s.shard = $1 and s.tenant = k.tenant and s.patient_id = k.patient_id and s.vital = k.vital
        order by e.occurred_at desc, e.position desc
        limit 1
    ) n on true
), gone as (
    delete from current_vitals c using again a
    where c.shard = $1 and c.tenant = a.tenant and c.patient_id = a.patient_id and c.vital = a.vital
      and a.position is null
), window_reading as materialized (
    select series, value, quality, suspect, occurred_at, recorded_at, position
    from reading
    where shard = $1 and position > $2 and position <= $3
      and occurred_at >= $4 and occurred_at <= $5 and rested(position)
-- By hashing, and only what is left is sorted: sorting every reading took five times as long.
), newest as materialized (
    select series, max(occurred_at) as occurred_at, min(recorded_at) as first_recorded
    from window_reading
    group by series
), said as materialized (
    -- The natural key: there is one such reading of a series. "is true": looked up by a hash.
    -- Of a window's size the statistics know nothing, and a join by loops took all of a core.
    select s.tenant, s.patient_id, s.vital, s.source_id, r.value, r.quality, r.suspect, r.occurred_at,
           r.recorded_at, r.position
    from window_reading r
    cross join lateral (
        select tenant, patient_id, vital, source_id from series
        where shard = $1 and series = r.series offset 0
    ) s
    where ((r.series, r.occurred_at) in (select series, occurred_at from newest)) is true
), registered as materialized (
    -- Few.
    select tenant, patient_id, recorded_at, data -> 'record' as record, position
    from non_reading
    where shard = $1 and position > $2 and position <= $3 and type = 'patient_registered'
), heard_of as (
    select tenant, patient_id, min(recorded_at) as recorded_at
    from (select s.tenant, s.patient_id, first_recorded as recorded_at
          from newest n
          cross join lateral (
              select tenant, patient_id from series where shard = $1 and series = n.series offset 0
          ) s
          union all
          select tenant, patient_id, recorded_at from registered) heard
    group by tenant, patient_id
), directory as (
    insert into patient as p
    select $1, tenant, patient_id, heard_of.recorded_at, record ->> 'ward', record::text, position
    from heard_of
    left join (select distinct on (tenant, patient_id) tenant, patient_id, record, position
               from registered
               order by tenant, patient_id, position desc) last using (tenant, patient_id)
    -- Whom the table knows, only if something was registered: a conflict would lock the row.
    where position is not null
       or coalesce((select false from patient known
                    where known.shard = $1 and known.tenant = heard_of.tenant
                      and known.patient_id = heard_of.patient_id), true)
    on conflict (shard, tenant, patient_id) do update
       set ward = excluded.ward, record = excluded.record, position = excluded.position
     where excluded.position is not null
), folded as (
    (select distinct on (tenant, patient_id, vital)
            tenant, patient_id, vital, value, quality, suspect,
            occurred_at, recorded_at, source_id, position
     from said
     where ((tenant, patient_id, vital) in (select tenant, patient_id, vital from retracted)) is not true
     order by tenant, patient_id, vital, occurred_at desc, position desc)
    union all
    select * from again where position is not null
)
insert into current_vitals as c
       (shard, tenant, patient_id, vital, value, quality, suspect,
        occurred_at, recorded_at, source_id, position)
select $1, f.* from folded f
on conflict (shard, tenant, patient_id, vital) do update
   set value = excluded.value, quality = excluded.quality, suspect = excluded.suspect,
       occurred_at = excluded.occurred_at, recorded_at = excluded.recorded_at,
       source_id = excluded.source_id, position = excluded.position
 where (excluded.occurred_at, excluded.position) > (c.occurred_at, c.position)
    or exists (select from again a
               where a.tenant = c.tenant and a.patient_id = c.patient_id and a.vital = c.vital)
