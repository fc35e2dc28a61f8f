-- The log is read once by each of fewer projections: "rollup" has the minutes, hours and
-- devices, "current_vitals" the directory of patients beside the newest values. Tables stay
-- as they are; the next start rebuilds them, and takes over what they hold of archived
-- months. Until then they are not folded, which makes readers ask the log or say that they
-- are behind; and they are not checked.
-- Locks: rows of small tables.

delete from projection where name in ('vital_minute', 'vital_hour', 'patient');
update projection
   set name = case name when 'device' then 'rollup' else name end,
       sql_hash = 'of several projections', apply_sql = null,
       check_sql = 'select null::text as key, null::text as expected, null::text as found '
                   'where $1::smallint is null and $2::bigint is null '
                   'and $3::text[] is null and $4::text[] is null'
 where name in ('device', 'current_vitals');

delete from checkpoint
where consumer in ('projection:vital_minute', 'projection:vital_hour', 'projection:patient');
update checkpoint set consumer = 'projection:rollup' where consumer = 'projection:device';

-- Whoever still cannot be folded is parked again by the rebuild.
delete from parked
where consumer in ('projection:vital_minute', 'projection:vital_hour', 'projection:device',
                   'projection:patient', 'projection:current_vitals');
delete from self_check
where name in ('vital_minute', 'vital_hour', 'device', 'patient', 'current_vitals');
delete from drift
where name in ('vital_minute', 'vital_hour', 'device', 'patient', 'current_vitals');
delete from rebuilding
where name in ('vital_minute', 'vital_hour', 'device', 'patient', 'current_vitals');
drop schema if exists rebuild_vital_minute, rebuild_vital_hour, rebuild_device, rebuild_patient,
                      rebuild_current_vitals cascade;
