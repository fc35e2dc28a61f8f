-- What a rebuild takes over from the live table: the hours of archived months, whose
-- readings the log no longer holds.
insert into vital_hour
select b.* from public.vital_hour b
where exists (select from archived_month m where b.start >= m.since and b.start < m.until)
