-- The service beside the owner, and the second wall between tenants.
--
-- Two roles of the whole server, made by who owns it (docs/operations.md); where they are
-- not, nothing of this has any effect:
--   vitals_service: appends, folds, pages. Owns nothing, changes no event.
--   vitals_tenant:  the same as it answers somebody: of every table with a tenant it sees
--                   and writes the rows of the one that vitals.tenant names, and no others.
--                   vitals_service is a member of it, and has all its rights on tables.

-- Gives a table to the service as far as it may have it, and puts the wall around it. Does
-- only what is missing: a policy locks its table, and readers may be at it.
--
-- What the log is made of may be read. Everything else is derived or configuration. The wall
-- stands around `series`: what a number measures, and of whom, is known only through it. An
-- index is looked up behind it by what is compared without leaking a value, which texts are
-- and enums, in PostgreSQL's eyes, are not: no key there has a vital before what is asked for.
create function share_table(in_table regclass) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    of_log boolean := exists (select from pg_inherits
                              where inhrelid = in_table and inhparent = 'reading'::regclass)
        or in_table = any (array['series', 'reading', 'reading_context', 'non_reading', 'shard_head',
                                 'log_commit', 'installation', 'archived_month', 'projection',
                                 '_sqlx_migrations']::regclass[]);
    has_wall boolean := exists (select from pg_attribute where attrelid = in_table
                                and attname = 'tenant' and attnum > 0 and not attisdropped);
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
    perform share_table(c.oid) from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p');
    -- As PostgreSQL 14 has it.
    if has_schema_privilege('vitals_tenant', 'public', 'create') then
        revoke create on schema public from public;
    end if;
    grant usage on schema public to vitals_tenant;
    grant execute on function append_events, append_naming, ensure_partition to vitals_tenant;
    -- The log in plain words, and what consumers see in its place, are its owner's views, with
    -- no wall in them.
    grant select on event to vitals_service;
    grant usage on schema unparked, resumed to vitals_service;
    grant select on all tables in schema unparked, resumed to vitals_service;
end
$$;

revoke execute on function share_table, share_all from public;
