-- Whoever had read further than a restored log goes: set back to it, in the transaction that
-- begins the new incarnation (src/log/incarnation.rs). A function of the owner, because it
-- touches what a service's role may not.
--
-- A copy of the whole database never has one ahead (they change in one commit); a part that
-- was put back, or a tail that was cut off, does. A consumer that stands ahead would pass
-- over, without a word, what comes next.
--
-- All go on from the head, so that what is appended from now on is told and judged. Tables
-- folded from what is gone are rebuilt (another text than the program's: src/projection/).
-- What the rules remember of readings that are gone is forgotten, rules and silences are read
-- again from the log, and deliveries of events that are gone give their places to those that come.
create function set_back_to_heads(
    out consumers text, out states bigint, out rules bigint, out deliveries bigint
) language plpgsql security definer set search_path = public, pg_temp as $$
declare
    head record;
    gone bigint;
begin
    select string_agg(format('%s on shard %s from %s to %s', c.consumer, c.shard, c.position, h.position),
                      ', ' order by c.consumer, c.shard)
    into consumers
    from checkpoint c join shard_head h on h.shard = c.shard and h.position < c.position;

    deliveries := 0;
    states := 0;
    rules := 0;
    -- Shard by shard: each is a range of the key, and there may be millions before it.
    for head in select h.shard, h.position from shard_head h order by h.shard loop
        delete from delivery d where d.shard = head.shard and d.position > head.position;
        get diagnostics gone = row_count;
        deliveries := deliveries + gone;
    end loop;
    if consumers is null then
        return;
    end if;

    delete from rule_state s using shard_head h
    where h.shard = s.shard and (s.state #>> '{active,ground,position}')::bigint > h.position;
    get diagnostics states = row_count;
    delete from rule_memory m using shard_head h where h.shard = m.shard and m.position > h.position;
    get diagnostics rules = row_count;
    -- Beneath what was taken away may be an older version.
    insert into rule_memory (shard, tenant, kind, id, data, position)
    select distinct on (e.shard, e.tenant, k.kind, k.id) e.shard, e.tenant, k.kind, k.id, e.data, e.position
    from non_reading e
    join checkpoint c on c.shard = e.shard and c.consumer = 'rules' and e.position <= c.position
    cross join lateral (
        select case e.type when 'rule_changed' then 'rule' else 'silence' end as kind,
               coalesce(e.data -> 'rule' ->> 'id', e.data ->> 'id') as id
    ) k
    where e.type in ('rule_changed', 'silence_set')
    order by e.shard, e.tenant, k.kind, k.id, e.position desc
    on conflict (shard, tenant, kind, id) do nothing;

    update projection p set sql_hash = 'ahead of the log', apply_sql = null
    where exists (select from checkpoint c join shard_head h on h.shard = c.shard and h.position < c.position
                  where c.consumer = 'projection:' || p.name);
    update checkpoint c set position = h.position
    from shard_head h where h.shard = c.shard and h.position < c.position;
end
$$;
