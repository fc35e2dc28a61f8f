-- What a rebuild takes over from the live table: the minutes of archived months, whose
-- readings the log no longer holds.
insert into vital_minute
select b.* from public.vital_minute b
where exists (select from archived_month m where b.start >= m.since and b.start < m.until)
