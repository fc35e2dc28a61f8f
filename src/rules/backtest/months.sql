-- The months, as years and months in UTC, in which shard $1 can have readings that
-- were measured within [$2, $3): all that any commit reaches over.
select distinct extract(year from month at time zone 'UTC')::int as year,
       extract(month from month at time zone 'UTC')::int as month
from log_commit l
cross join lateral generate_series(
    date_trunc('month', greatest(l.occurred_min, $2), 'UTC'),
    least(l.occurred_max, $3), interval '1 month') as month
where l.shard = $1 and l.occurred_max >= $2 and l.occurred_min < $3
order by 1, 2
