-- Readings of one vital in [$5, $6) in buckets of $7 seconds, counted from 1970.
select date_bin(make_interval(secs => $7), occurred_at, 'epoch'::timestamptz) as start,
       min(value) as min, max(value) as max, avg(value) as avg, count(*) as count
from event
where shard = $1 and tenant = $2 and patient_id = $3 and vital = $4::text::vital
  and occurred_at >= $5 and occurred_at < $6
  and ($8::text is null or source_id = $8)
group by 1
order by 1
limit $9
