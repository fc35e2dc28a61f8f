-- What a rebuild takes over from the live table: the hours of archived months, whose
-- readings the log no longer holds.
insert into device_hour
select d.* from public.device_hour d
where exists (select from archived_month m where d.start >= m.since and d.start < m.until)
