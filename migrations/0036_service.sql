-- The service beside the owner, and the second wall between tenants.
--
-- Two roles of the whole server, made by who owns it (docs/database.md); where they are
-- not, nothing of this has any effect:
--   vitals_service: appends, folds, pages. Owns nothing, changes no event.
--   vitals_tenant:  the same as it answers somebody: of every table with a tenant it sees
--                   and writes the rows of the one that vitals.tenant names, and no others.
--                   vitals_service is a member of it, and has all its rights on tables.
-- Locks: none that matter, new functions.

-- Gives a table to the service as far as it may have it, and puts the wall around it. Does
-- only what is missing: a policy locks its table, and readers may be at it.
--
-- What the log is made of may be read. Everything else is derived or configuration.
create function share_table(in_table regclass) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    of_log boolean := in_table = 'event'::regclass
        or exists (select from pg_inherits where inhrelid = in_table and inhparent = 'event'::regclass)
        or in_table = any (array['shard_head', 'log_commit', 'installation', 'archived_month',
                                 'projection', '_sqlx_migrations']::regclass[]);
    has_tenant boolean := exists (select from pg_attribute where attrelid = in_table
                                  and attname = 'tenant' and attnum > 0 and not attisdropped);
    has_vital boolean := exists (select from pg_attribute where attrelid = in_table
                                 and atttypid = 'vital'::regtype and attnum > 0 and not attisdropped);
    has_wall boolean;
begin
    if to_regrole('vitals_service') is null or to_regrole('vitals_tenant') is null then
        return;
    end if;
    if of_log then
        if has_table_privilege('vitals_service', in_table, 'insert, update, delete, truncate') then
            execute format('revoke all on %s from vitals_service, vitals_tenant, public', in_table);
        end if;
        if not has_table_privilege('vitals_tenant', in_table, 'select') then
            execute format('grant select on %s to vitals_tenant', in_table);
        end if;
        -- A floor for the time of what is still to be recorded (src/log/settle.rs), and what
        -- it takes to wait for who appends.
        if in_table = 'shard_head'::regclass
           and not has_column_privilege('vitals_tenant', in_table, 'recorded_at', 'update') then
            grant update (recorded_at) on shard_head to vitals_tenant;
        end if;
    elsif not (has_table_privilege('vitals_tenant', in_table, 'select')
               and has_table_privilege('vitals_tenant', in_table, 'insert')
               and has_table_privilege('vitals_tenant', in_table, 'update')
               and has_table_privilege('vitals_tenant', in_table, 'delete')) then
        execute format('grant select, insert, update, delete on %s to vitals_tenant', in_table);
    end if;
    -- Behind a wall an index is only looked up by comparisons that cannot leak a value. That
    -- of enums could not either, and PostgreSQL does not say so: until a superuser has, a
    -- state would read all of a patient's readings instead of one of each vital.
    has_wall := has_tenant
        and (not has_vital or (select proleakproof from pg_proc where oid = 'enum_eq'::regproc));
    if has_wall and not exists (select from pg_policy where polrelid = in_table) then
        execute format('create policy every_tenant on %s to vitals_service using (true)', in_table);
        execute format('create policy own_tenant on %s to vitals_tenant '
                       'using (tenant = current_setting(''vitals.tenant'', true))', in_table);
    end if;
    if has_wall <> (select relrowsecurity from pg_class where oid = in_table) then
        execute format('alter table %s %s row level security', in_table,
                       case when has_wall then 'enable' else 'disable' end);
    end if;
end
$$;

-- The same for all that there is, and for the functions and views of the log. Whoever starts
-- at the same time waits.
create function share_all() returns void
language plpgsql set search_path = public, pg_temp as $$
begin
    if to_regrole('vitals_service') is null or to_regrole('vitals_tenant') is null then
        return;
    end if;
    perform pg_advisory_xact_lock(hashtext('vitals share'));
    if not (select proleakproof from pg_proc where oid = 'enum_eq'::regproc) then
        raise warning 'there is no wall between tenants around tables of vitals: a superuser has to '
                      'run "alter function enum_eq(anyenum, anyenum) leakproof" (docs/database.md)';
    end if;
    perform share_table(c.oid) from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p');
    -- As PostgreSQL 14 has it.
    if has_schema_privilege('vitals_tenant', 'public', 'create') then
        revoke create on schema public from public;
    end if;
    grant usage on schema public to vitals_tenant;
    grant execute on function append_events, ensure_partition to vitals_tenant;
    -- What consumers see in place of the log is its owner's view, with no wall in it.
    grant usage on schema unparked, resumed to vitals_service;
    grant select on all tables in schema unparked, resumed to vitals_service;
end
$$;

-- Makes the partition of a month, or of a year when there is no month, in one statement: who
-- is frozen in the middle holds nobody up. As the owner, for whoever may append.
--
-- Attaching takes a lock that lets appends go on, where CREATE … PARTITION OF would stop
-- them all. The advisory lock makes two processes that need the same one take turns.
create function ensure_partition(in_year integer, in_month integer) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    since date := make_date(in_year, coalesce(in_month, 1), 1);
    until date := since + case when in_month is null then interval '1 year' else interval '1 month' end;
    partition text := 'event_' || to_char(since, case when in_month is null then 'YYYY' else 'YYYY_MM' end);
begin
    if in_year not between 2000 and 9999 then
        raise exception 'no partition is made for the year %', in_year;
    end if;
    perform pg_advisory_xact_lock(33329995823477505);
    if to_regclass(partition) is null then
        execute format('create table %I (like event including all)', partition);
        execute format('alter table event attach partition %I for values from (%L) to (%L)',
                       partition, since || 'T00:00:00Z', until || 'T00:00:00Z');
        -- As a part of the log, which it was not before.
        perform share_table(partition::regclass);
    end if;
end
$$;
revoke execute on function share_table, share_all, ensure_partition from public;
