-- Where the log lies now, which incarnation it says is the newest, and in which shards an
-- append that this process acknowledged is not there any more.
--
-- The place: the system identifier differs after a restore into another cluster, the timeline
-- after a promotion or a point in time, the database's and the table's number after a dump was
-- restored beside its original or over it. Null on a standby, which cannot be appended to.
--
-- $1 shards   $2 the last acknowledged position of each   $3 when the log learned it
select case when pg_is_in_recovery() then null
            else (select c.system_identifier from pg_control_system() c)::text
                 || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
                 || '/' || (select d.oid from pg_database d where d.datname = current_database())::text
                 || '/' || 'public.shard_head'::regclass::oid::text end as place,
       i.number, i.place as known,
       array(select a.shard
             from unnest($1::smallint[], $2::bigint[], $3::timestamptz[]) as a (shard, position, recorded_at)
             where not exists (select from public.log_commit c
                               where c.shard = a.shard and c.position_to = a.position
                                 and c.recorded_at = a.recorded_at)) as gone
from (select 1) here
left join lateral (select n.number, n.place from public.incarnation n order by n.number desc limit 1) i on true
