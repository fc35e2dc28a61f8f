-- One row for every endpoint that wants the event. `*` means every alert that pages;
-- what was missed is no page and is delivered only where it is named. A fallback also
-- gets notices about endpoints, and the high alarms that another one cannot take now.
--
-- As many as this process has capacity for are claimed by being made: the lease is `due_at`,
-- the number of the attempt is 1. The others are claimed later, with attempts = 0 here.
--
-- $1 shard   $2–$13 what happened   $14, $15: endpoints and how many more of each this
-- process takes; $16: of those not named   $17: lease in seconds   $18: bodies for endpoints
-- that want a stub payload   $19: the traces that attempts follow from
with announced as (
    select * from unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
                         $8::boolean[], $9::uuid[], $10::text[], $11::text[], $12::boolean[], $13::uuid[],
                         $18::text[], $19::text[])
        as h (position, tenant, webhook_id, event, full_body, recorded_at,
              pages, alert_id, priority, class, clears, about, stub_body, trace)
), wanted as (
    select h.*, e.id as endpoint_id, e.version, e.ordered,
           case e.payload when 'thin' then h.stub_body else h.full_body end as body,
           e.state = 'active' and b.endpoint_id is null as is_open
    from announced h
    join endpoint e on e.tenant = h.tenant
    left join breaker b on b.endpoint_id = e.id
    where e.state <> 'disabled'
      and e.created_at <= h.recorded_at
      and e.id is distinct from h.about
      and (h.event = any (e.events) or (h.pages and '*' = any (e.events))
           or (e.fallback and h.about is not null)
           or (e.fallback and h.pages and h.priority = 'high' and exists (
                  select from breaker open
                  join endpoint other on other.id = open.endpoint_id
                  where other.tenant = h.tenant and other.state = 'active' and other.id <> e.id
                    and other.created_at <= h.recorded_at
                    and (h.event = any (other.events) or '*' = any (other.events)))))
    -- An endpoint that is being disabled at this moment is waited for, and then left out.
    for share of e
), placed as (
    select w.*, row_number() over by_endpoint as nth,
           count(*) over (partition by w.endpoint_id) as of_endpoint,
           w.is_open and not w.ordered and row_number() over by_endpoint <= coalesce(own.room, $16) as claimed
    from wanted w
    left join unnest($14::uuid[], $15::bigint[]) as own (endpoint_id, room)
        on own.endpoint_id = w.endpoint_id
    window by_endpoint as (partition by w.endpoint_id order by w.position)
), begun as (
    -- Numbers of an incarnation are greater than all of those before it: none comes again,
    -- whatever a restore has made the database forget.
    select sequences_from as after from incarnation order by number desc limit 1
), numbered as (
    -- Held until the commit: numbers have no gap and are in the order of commits. In the
    -- order of endpoints, so that two fan-outs never wait for each other.
    insert into endpoint_sequence as s (endpoint_id, last)
    select endpoint_id, count(*) + (select after from begun) from placed group by endpoint_id order by endpoint_id
    on conflict (endpoint_id) do update
        set last = greatest(s.last + excluded.last - (select after from begun), excluded.last)
    returning endpoint_id, last
), made as (
    insert into delivery (shard, position, endpoint_id, id, tenant, webhook_id, event, body, state,
                          attempts, due_at, created_at, sequence, alert_id, priority, class, ordered, trace)
    select $1, p.position, p.endpoint_id, gen_random_uuid(), p.tenant, p.webhook_id, p.event, p.body, 'pending',
           p.claimed::integer, clock_timestamp() + make_interval(secs => case when p.claimed then $17 else 0 end),
           clock_timestamp(), n.last - p.of_endpoint + p.nth, p.alert_id, p.priority, p.class, p.ordered,
           p.trace
    from placed p
    join numbered n using (endpoint_id)
    order by p.endpoint_id, p.position
    on conflict do nothing
    returning *
), superseded as (
    -- What was to be said of a low alert, and could not be until it was over.
    update delivery d
       set state = 'dead', finished_at = clock_timestamp(),
           reason = 'superseded: the alert was cleared before this could be delivered'
      from (
        select late.* from placed p
        -- With a limit, so that it is asked by alert, and not all that waits is read first.
        cross join lateral (
            select c.shard, c.position, c.endpoint_id from delivery c
            where c.alert_id = p.alert_id and c.endpoint_id = p.endpoint_id and c.position < p.position
              and c.shard = $1 and c.state = 'pending' and c.priority = 'low'
            limit 100
        ) late
        where p.clears and p.priority = 'low'
      ) late
     where d.shard = late.shard and d.position = late.position and d.endpoint_id = late.endpoint_id
       and d.state not in ('delivered', 'dead')
)
select m.shard, m.position, m.endpoint_id, m.id, m.tenant, m.webhook_id, m.sequence, m.class,
       m.priority is not distinct from 'high' as is_high, m.ordered, m.attempts, 0 as attempts_before, 0::float8 as age_seconds, false as probe, e.version,
       case when m.attempts > 0 then m.body else '' end as body, m.trace
from made m
-- Row by row, by its key: joined with what was placed, a plan went through all of that for
-- each row (11 s for 40,000).
cross join lateral (
    select version, state = 'active' and not exists (select from breaker b where b.endpoint_id = id) as is_open
    from endpoint where id = m.endpoint_id offset 0
) e
-- What waits for an endpoint that is paused or broken is not looked for now: that
-- would be a claim for each alert, in vain.
where m.attempts > 0 or e.is_open
order by m.sequence
