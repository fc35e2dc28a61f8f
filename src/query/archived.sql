-- The latest archived month of which an answer about a patient would need readings that
-- are only in the archive. Months from $4 until $5 are looked at.
--
-- The table has kept each series' newest reading of a month. So what is missing from [$6, …)
-- of a month is known to be there when a kept one lies there; and the newest at a moment is
-- the kept one, unless that came after it: was measured after $7 or recorded after $8.
-- $9: the vitals that are asked for; $10: the device, or all.
select m.partition
from archived_month m
-- One at a time, and not EXISTS: it would be turned into one look at all months.
cross join lateral (
    select
    from series s
    cross join lateral (
        select
        from reading r
        where r.shard = $1 and r.series = s.series
          and r.occurred_at >= greatest(m.since, $6) and r.occurred_at < m.until
          and (r.occurred_at > $7 or r.recorded_at > $8)
        limit 1
    ) kept
    where s.shard = $1 and s.tenant = $2 and s.patient_id = $3 and s.vital = any ($9::text[]::vital[])
      and ($10::text is null or s.source_id = $10)
    limit 1
) found
where m.since < $5 and m.until > $4
order by m.since desc
limit 1
