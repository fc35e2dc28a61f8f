-- Writing the log: the functions that may (decisions 0003, 0033). Theirs is the owner's
-- right: who may append may call these and no more. Names are looked up in public, and never
-- in what a session has made for itself; rows by their keys, also by a plan that was made when
-- a table was still small.

-- What the chain covers of a series: its number and its identity, each text with its length.
create function series_digest(
    in_series integer, in_tenant text, in_patient_id text, in_vital text, in_source_id text
) returns bytea language sql immutable as $$
    select sha256(int4send(in_series)
                  || int4send(octet_length(in_tenant)) || convert_to(in_tenant, 'UTF8')
                  || int4send(octet_length(in_patient_id)) || convert_to(in_patient_id, 'UTF8')
                  || int4send(octet_length(in_vital)) || convert_to(in_vital, 'UTF8')
                  || int4send(octet_length(in_source_id)) || convert_to(in_source_id, 'UTF8'))
$$;

-- The numbers of series, each asked for once, made where there are none. The head stays locked until the caller's
-- transaction ends, which must append a reading of each: then both are there, or neither.
-- Null when there is no such shard.
create function name_series(
    in_shard smallint, tenants text[], patient_ids text[], vitals text[], source_ids text[]
) returns integer[] language plpgsql security definer
set search_path = public, pg_temp set enable_seqscan = off as $$
declare
    given integer;
    last integer;
    made integer;
    numbers integer[];
begin
    select h.series into given from shard_head h where h.shard = in_shard for update;
    if not found then
        return null;
    end if;
    -- The same, unless somebody has put an older head back.
    select greatest(given, max(s.series)) into last from series s where s.shard = in_shard;
    -- What is there, asked by the index for each: whether a join would be faster depends on
    -- what statistics say of the table, and those are late. What is not gets the next numbers.
    with asked as materialized (
        select a.n, a.tenant, a.patient_id, a.vital::vital as vital, a.source_id,
               (select s.series from series s
                where s.shard = in_shard and s.tenant = a.tenant and s.patient_id = a.patient_id
                  and s.vital = a.vital::vital and s.source_id = a.source_id) as known
        from unnest(tenants, patient_ids, vitals, source_ids)
             with ordinality as a (tenant, patient_id, vital, source_id, n)
    ), numbered as materialized (
        select *, coalesce(known, last + (count(*) filter (where known is null) over (order by n))::integer)
                  as series
        from asked
    ), made_now as (
        insert into series (shard, series, tenant, patient_id, vital, source_id)
        select in_shard, series, tenant, patient_id, vital, source_id from numbered where known is null
    )
    select array_agg(series order by n), count(*) filter (where known is null)
    into numbers, made
    from numbered;
    if last + made > given then
        update shard_head h set series = last + made where h.shard = in_shard;
    end if;
    return numbers;
end
$$;

-- Appends a batch to one shard: lock the head, insert, chain, move the head.
--
-- The head's row is locked before anything is numbered, so whoever holds it is the only one
-- who appends to this shard until its transaction ends. A function and not one statement, so
-- that what follows the lock sees what the last one committed.
--
-- Of the batch's events, counted by ordinals from 1 over both kinds: the readings, by the
-- numbers of their series; the contexts of some of them; and what is no reading.
--
-- known_position, known_recorded: a commit by which the caller knew the numbers. Where that
-- commit is not in the log, it was restored, and they may be another's: then nothing is
-- appended, and `head` is null. Null: they were given in this transaction.
-- digests: 32 bytes an event, one after the other, in order (src/log/chain.rs).
-- careful: duplicates are to be expected.
-- stored: the positions that are new, or null if all are.
-- No row when there is no such shard.
create function append_events(
    in_shard smallint, known_position bigint, known_recorded timestamptz,
    reading_ordinals integer[], reading_series integer[], reading_values float8[], qualities real[],
    suspects boolean[], reading_occurred timestamptz[],
    context_ordinals integer[], contexts text[],
    other_ordinals integer[], tenants text[], patient_ids text[], types text[],
    other_occurred timestamptz[], source_ids text[], datas text[],
    digests bytea, careful boolean,
    out head bigint, out recorded timestamptz, out stored bigint[]
) returns setof record language plpgsql security definer
set search_path = public, pg_temp set enable_seqscan = off as $$
declare
    previous bytea;
    series_from integer;
    series_last integer;
    of_series bytea := '';
    count_new integer := cardinality(reading_ordinals) + cardinality(other_ordinals);
    first_new bigint;
    last_new bigint;
    since timestamptz;
    until timestamptz;
    positions bytea := '';
begin
    select h.position, h.recorded_at, h.hash, h.series_committed, h.series
    into head, recorded, previous, series_from, series_last
    from shard_head h where h.shard = in_shard for update;
    if not found then
        return;
    end if;
    if not (known_position = head and known_recorded = recorded)
       and not exists (select from log_commit c where c.shard = in_shard and c.position_to = known_position
                       and c.recorded_at = known_recorded) then
        head := null;
        recorded := null;
        return next;
        return;
    end if;
    -- What is derived may be derived again; what the log says must be on the disk, whatever
    -- the connection's own setting is.
    perform set_config('synchronous_commit', 'on', true);
    -- Read after the lock was obtained, and always later than what was recorded last, or
    -- answered as known (src/log/settle.rs), whatever the clock does meanwhile.
    recorded := greatest(recorded + interval '1 microsecond', clock_timestamp());

    if cardinality(other_ordinals) > 0 then
        insert into non_reading (position, occurred_at, recorded_at, shard, tenant, patient_id, type,
                                 source_id, data)
        select head + o.ordinal, o.occurred_at, recorded, in_shard, o.tenant, o.patient_id, o.type,
               o.source_id, o.data::json
        from unnest(other_ordinals, tenants, patient_ids, types, other_occurred, source_ids, datas)
             as o (ordinal, tenant, patient_id, type, occurred_at, source_id, data);
        -- After the insert, which waits for a month that is being exchanged.
        if exists (select from archived_month m, unnest(other_occurred) o (at)
                   where o.at >= m.since and o.at < m.until) then
            raise check_violation using constraint = 'month_archived',
                message = 'a month of these events is archived';
        end if;
    end if;

    -- Almost always everything is new, and then a plain insert costs a third less than one
    -- that may meet a conflict in every row.
    if not careful then
        begin
            insert into reading (position, occurred_at, recorded_at, value, series, quality, shard, suspect)
            select head + r.ordinal, r.occurred_at, recorded, r.value, r.series, r.quality, in_shard, r.suspect
            from unnest(reading_ordinals, reading_series, reading_values, qualities, suspects, reading_occurred)
                 as r (ordinal, series, value, quality, suspect, occurred_at);
            first_new := head + 1;
            last_new := head + count_new;
        exception when unique_violation then
            careful := true;
        end;
    end if;
    if careful then
        with new as (
            insert into reading (position, occurred_at, recorded_at, value, series, quality, shard, suspect)
            select head + r.ordinal, r.occurred_at, recorded, r.value, r.series, r.quality, in_shard, r.suspect
            from unnest(reading_ordinals, reading_series, reading_values, qualities, suspects, reading_occurred)
                 as r (ordinal, series, value, quality, suspect, occurred_at)
            -- Also within the batch: the second of two equal readings meets the first.
            -- Never NOT EXISTS: its plan flips with the table's size.
            on conflict do nothing
            returning position, occurred_at
        ), all_new as (
            select * from new
            union all
            select head + o.ordinal, o.occurred_at
            from unnest(other_ordinals, other_occurred) as o (ordinal, occurred_at)
        )
        select count(*), min(position), max(position), min(occurred_at), max(occurred_at),
               coalesce(array_agg(position order by position), '{}'),
               string_agg(int8send(position), '' order by position),
               string_agg(substring(digests from (32 * (position - head) - 31)::integer for 32),
                          '' order by position)
        into count_new, first_new, last_new, since, until, stored, positions, digests
        from all_new;
    else
        select min(t), max(t) into since, until from unnest(reading_occurred || other_occurred) t;
    end if;

    if cardinality(context_ordinals) > 0 then
        insert into reading_context (shard, position, context)
        select in_shard, head + c.ordinal, c.context::json
        from unnest(context_ordinals, contexts) as c (ordinal, context)
        where stored is null or head + c.ordinal = any (stored);
    end if;

    if count_new > 0 then
        -- Positions that follow each other are told by the first and the last.
        if last_new - first_new + 1 = count_new then
            positions := '';
        end if;
        if series_last > series_from then
            select string_agg(series_digest(s.series, s.tenant, s.patient_id, s.vital::text, s.source_id), ''
                              order by s.series)
            into of_series
            from series s where s.shard = in_shard and s.series > series_from and s.series <= series_last;
        end if;
        digests := sha256(previous || int2send(in_shard)
                          || int8send((extract(epoch from recorded) * 1000000)::bigint)
                          || int4send(series_last) || of_series
                          || int8send(first_new) || int8send(last_new) || positions || digests);
        insert into log_commit (shard, position_from, position_to, events, series_to,
                                occurred_min, occurred_max, recorded_at, hash)
        values (in_shard, first_new, last_new, count_new, series_last, since, until, recorded, digests);
        update shard_head h
        set position = last_new, recorded_at = recorded, hash = digests, series_committed = series_last
        where h.shard = in_shard;
    end if;
    return next;
end
$$;

-- What the chain covers of a reading, as src/log/chain.rs makes it where numbers are known.
create function reading_digest(
    in_series integer, in_value float8, in_quality real, in_suspect boolean,
    in_occurred timestamptz, in_context text
) returns bytea language sql immutable as $$
    select sha256('\x01'::bytea || int4send(in_series)
                  || '\x01'::bytea || float8send(in_value)
                  || case when in_quality is null then '\x00'::bytea
                          else '\x01'::bytea || float8send(in_quality::float8) end
                  || case when in_suspect then '\x01'::bytea else '\x00'::bytea end
                  || int8send((extract(epoch from in_occurred) * 1000000)::bigint)
                  || case when in_context is null then '\x00'::bytea
                          else '\x01'::bytea || int8send(octet_length(in_context))
                               || convert_to(in_context, 'UTF8') end)
$$;

-- Appends a batch whose series the caller does not know, and says their numbers: naming and
-- appending are one statement, so that who is frozen in the middle holds nobody up.
--
-- named_…: each series once. reading_places: of each reading which of them it is of, from 1.
-- digests: of what is no reading; of readings they are made here. by_…: the newest commit.
create function append_naming(
    in_shard smallint,
    named_tenants text[], named_patient_ids text[], named_vitals text[], named_source_ids text[],
    reading_ordinals integer[], reading_places integer[], reading_values float8[], qualities real[],
    suspects boolean[], reading_occurred timestamptz[],
    context_ordinals integer[], contexts text[],
    other_ordinals integer[], tenants text[], patient_ids text[], types text[],
    other_occurred timestamptz[], source_ids text[], datas text[],
    digests bytea, careful boolean,
    out head bigint, out recorded timestamptz, out stored bigint[],
    out numbers integer[], out by_position bigint, out by_recorded timestamptz
) returns setof record language plpgsql security definer
set search_path = public, pg_temp set enable_seqscan = off as $$
declare
    of_readings integer[];
    all_digests bytea;
begin
    numbers := name_series(in_shard, named_tenants, named_patient_ids, named_vitals, named_source_ids);
    if numbers is null then
        return;
    end if;
    select coalesce(array_agg(numbers[p.place] order by p.n), '{}') into of_readings
    from unnest(reading_places) with ordinality as p (place, n);
    select string_agg(d.digest, '' order by d.ordinal) into all_digests
    from (
        select r.ordinal, reading_digest(r.series, r.value, r.quality, r.suspect, r.occurred_at, c.context)
        from unnest(reading_ordinals, of_readings, reading_values, qualities, suspects, reading_occurred)
             as r (ordinal, series, value, quality, suspect, occurred_at)
        left join unnest(context_ordinals, contexts) as c (ordinal, context) on c.ordinal = r.ordinal
        union all
        select o, substring(digests from 32 * o - 31 for 32) from unnest(other_ordinals) o
    ) d (ordinal, digest);
    select a.head, a.recorded, a.stored into head, recorded, stored
    from append_events(in_shard, null, null, reading_ordinals, of_readings, reading_values, qualities,
                       suspects, reading_occurred, context_ordinals, contexts, other_ordinals, tenants,
                       patient_ids, types, other_occurred, source_ids, datas, all_digests, careful) a;
    select c.position_to, c.recorded_at into by_position, by_recorded
    from log_commit c where c.shard = in_shard order by c.position_to desc limit 1;
    return next;
end
$$;

-- Makes the partition of a month, or of a year when there is no month, in one statement: who
-- is frozen in the middle holds nobody up.
--
-- Attaching takes a lock that lets appends go on, where CREATE … PARTITION OF would stop
-- them all. The advisory lock makes two processes that need the same one take turns.
create function ensure_partition(in_year integer, in_month integer) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    since date := make_date(in_year, coalesce(in_month, 1), 1);
    until date := since + case when in_month is null then interval '1 year' else interval '1 month' end;
    partition text := 'reading_' || to_char(since, case when in_month is null then 'YYYY' else 'YYYY_MM' end);
begin
    if in_year not between 2000 and 9999 then
        raise exception 'no partition is made for the year %', in_year;
    end if;
    perform pg_advisory_xact_lock(33329995823477505);
    if to_regclass(partition) is null then
        execute format('create table %I (like reading including all)', partition);
        execute format('alter table reading attach partition %I for values from (%L) to (%L)',
                       partition, since || 'T00:00:00Z', until || 'T00:00:00Z');
        -- As a part of the log, which it was not before.
        perform share_table(partition::regclass);
    end if;
end
$$;

revoke execute on function name_series, append_events, append_naming, ensure_partition from public;

-- What an older version of the program wrote becomes what this one reads: in queries, folds,
-- rules and fan-out alike, and here only. Rows stay as they were written, because the chain
-- covers their text. Each step goes from one version to the next; an event of the newest
-- version, and what has no version, is returned as it is.
--
-- Alerts (types in upper case, of patients), 1 to 2: why it was raised. Version 1 knew rules
-- that one reading raises, so that reading is all there was to know.
create function event_data(in_type text, in_data json) returns json
language sql immutable parallel safe as $$
    select case
        when in_type ~ '^[A-Z]' and in_data ->> 'v' = '1' and in_data ->> 'alertId' is not null
             and in_data ->> 'since' is not null
        then (in_data::jsonb
              || jsonb_build_object('v', 2)
              || case when in_data -> 'because' is null
                      then jsonb_build_object('because', jsonb_build_object(
                               'heldSince', in_data -> 'since', 'samples', 1))
                      else '{}' end)::json
        else in_data
    end
$$;
