-- How many deliveries are due, by class, and for how long the oldest has been. Counted up
-- to $1 an endpoint: beyond that the answer is "many".
with recursive waiting as (
    (select endpoint_id from delivery where state = 'pending' order by endpoint_id limit 1)
    union all
    select (select d.endpoint_id from delivery d
            where d.state = 'pending' and d.endpoint_id > w.endpoint_id
            order by d.endpoint_id limit 1)
    from waiting w
    where w.endpoint_id is not null
)
select d.class, count(*), max(extract(epoch from statement_timestamp() - d.due_at))::float8
from waiting w
join endpoint e on e.id = w.endpoint_id and e.state = 'active'
cross join lateral (
    select c.class, c.due_at from delivery c
    where c.endpoint_id = w.endpoint_id and c.state = 'pending' and c.due_at <= statement_timestamp()
    order by c.due_at limit $1
) d
group by d.class
