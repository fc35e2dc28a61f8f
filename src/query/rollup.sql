-- Buckets of $7 seconds, counted from 1970, of one vital in [$5, $6). Whole minutes, those
-- of [$8, $9), are taken from what is folded up to position $10; the two ends, and what
-- came after that position, which was measured in [$11, $12], are read from the log.
with retracted as materialized (
    -- At the readings' own times. Almost always none. What is folded honours its own.
    select (data ->> 'readingPosition')::bigint as position
    from non_reading
    where shard = $1 and tenant = $2 and patient_id = $3
      and ((occurred_at >= $5 and occurred_at < $8) or (occurred_at >= $9 and occurred_at < $6))
      and type = 'reading_retracted'
), chosen as materialized (
    select series
    from series
    where shard = $1 and tenant = $2 and patient_id = $3 and vital = $4::text::vital
), part as (
    select start, count, min, max, sum_millionths
    from chosen c join series_minute m on m.shard = $1 and m.series = c.series and start >= $8 and start < $9
    union all
    select occurred_at, 1, value, value, round(value * 1e6)::bigint
    from chosen c join reading r on r.shard = $1 and r.series = c.series and occurred_at >= $5 and occurred_at < $8
    where not exists (select from retracted where position = r.position)
    union all
    select occurred_at, 1, value, value, round(value * 1e6)::bigint
    from chosen c join reading r on r.shard = $1 and r.series = c.series and occurred_at >= $9 and occurred_at < $6
    where not exists (select from retracted where position = r.position)
    union all
    select occurred_at, 1, value, value, round(value * 1e6)::bigint
    from chosen c join reading r on r.shard = $1 and r.series = c.series
    where occurred_at >= greatest($8, $11) and occurred_at < $9 and occurred_at <= $12
      and position > $10
)
select date_bin(make_interval(secs => $7), start, 'epoch'::timestamptz) as start,
       min(min) as min, max(max) as max,
       -- Whole numbers add up to the same in any order; as in history_buckets.sql.
       (sum(sum_millionths) / sum(count) / 1000000)::float8 as avg, sum(count)::bigint as count
from part
group by 1
order by 1
limit $13
