-- When the first event of a patient in [$4, $5) was; null if there is none.
select least(
    (select min(e.occurred_at)
     from series s
     cross join lateral (
        select occurred_at from reading
        where shard = $1 and series = s.series and occurred_at >= $4 and occurred_at < $5
        order by occurred_at
        limit 1
     ) e
     where s.shard = $1 and s.tenant = $2 and s.patient_id = $3),
    (select min(occurred_at) from non_reading
     where shard = $1 and tenant = $2 and patient_id = $3 and occurred_at >= $4 and occurred_at < $5))
