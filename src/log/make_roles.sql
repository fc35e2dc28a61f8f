-- The roles of migrations/0036, and what only a superuser may say for the wall. Another
-- process may be at it.
do $$
begin
    perform pg_advisory_xact_lock(hashtext('vitals roles'));
    if (select rolsuper from pg_roles where rolname = current_user)
       and not (select proleakproof from pg_proc where oid = 'enum_eq'::regproc) then
        alter function enum_eq(anyenum, anyenum) leakproof;
    end if;
    if to_regrole('vitals_tenant') is null then
        create role vitals_tenant nologin;
    end if;
    if to_regrole('vitals_service') is null then
        create role vitals_service login in role vitals_tenant;
    end if;
exception when duplicate_object or unique_violation then
    null;
end
$$
