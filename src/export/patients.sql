-- The patients of the tenant $2 in the shards $1 of whose vitals $4 there is any series, those
-- of $3 or all; with how many readings the rollup has of [$5, $6), which may be behind or one
-- hour more. In the order in which an export has them.
select s.shard, s.patient_id, coalesce(sum(h.readings), 0)::bigint
from series s
left join lateral (
    select sum(count)::bigint as readings
    from series_hour
    where shard = s.shard and series = s.series
      and start > $5 - interval '1 hour' and start < $6
) h on true
where s.shard = any ($1) and s.tenant = $2
  and ($3::text[] is null or s.patient_id = any ($3))
  and ($4::text[] is null or s.vital = any ($4::text[]::vital[]))
group by s.shard, s.patient_id
order by s.shard, s.patient_id
