-- What a rebuild takes over from the live tables: the minutes and hours of archived
-- months, whose readings the log no longer holds.
with minute as (
    insert into series_minute
    select b.* from public.series_minute b
    where exists (select from archived_month m where b.start >= m.since and b.start < m.until)
), hour as (
    insert into series_hour
    select b.* from public.series_hour b
    where exists (select from archived_month m where b.start >= m.since and b.start < m.until)
)
insert into device_hour
select d.* from public.device_hour d
where exists (select from archived_month m where d.start >= m.since and d.start < m.until)
