-- What endpoint $1 should have been told of high alarms and was not, for the fallbacks of
-- its tenant: the same event under the same webhook-id. An alarm older than $2 seconds
-- would mislead. A fallback outside the hospital (stub payload) is told as little as ever.
with undelivered as (
    select * from delivery
    where endpoint_id = $1 and state = 'pending' and class = 'alarm' and priority = 'high'
      and created_at > clock_timestamp() - make_interval(secs => $2)
), wanted as (
    select u.*, e.id as fallback_id, e.ordered as in_order,
           case when e.payload = 'full' or own.payload = 'thin' then u.body
                else (jsonb_build_object(
                    'type', u.body::jsonb -> 'type', 'timestamp', u.body::jsonb -> 'timestamp',
                    'event', u.body::jsonb -> 'event', 'alertId', u.body::jsonb -> 'alertId',
                    'state', u.body::jsonb -> 'state', 'priority', u.body::jsonb -> 'priority',
                    '_links', (u.body::jsonb -> '_links') - 'patient'))::text end as told
    from undelivered u
    join endpoint own on own.id = $1
    join endpoint e on e.tenant = u.tenant
    where e.fallback and e.state <> 'disabled' and e.id <> $1
      and not exists (select from delivery had where had.shard = u.shard
                      and had.position = u.position and had.endpoint_id = e.id)
    for share of e
), placed as (
    select w.*, row_number() over (partition by fallback_id order by sequence) as nth,
           count(*) over (partition by fallback_id) as of_endpoint
    from wanted w
), begun as (
    -- Numbers of an incarnation are greater than all of those before it: none comes again,
    -- whatever a restore has made the database forget.
    select sequences_from as after from incarnation order by number desc limit 1
), numbered as (
    insert into endpoint_sequence as s (endpoint_id, last)
    select fallback_id, count(*) + (select after from begun) from placed group by fallback_id order by fallback_id
    on conflict (endpoint_id) do update
        set last = greatest(s.last + excluded.last - (select after from begun), excluded.last)
    returning endpoint_id, last
)
insert into delivery (shard, position, endpoint_id, id, tenant, webhook_id, event, body, state, attempts,
                      due_at, created_at, sequence, alert_id, priority, class, ordered)
select p.shard, p.position, p.fallback_id, gen_random_uuid(), p.tenant, p.webhook_id, p.event, p.told,
       'pending', 0, clock_timestamp(), clock_timestamp(), n.last - p.of_endpoint + p.nth,
       p.alert_id, p.priority, p.class, p.in_order
from placed p
join numbered n on n.endpoint_id = p.fallback_id
on conflict do nothing
