-- The roles of migrations/0008_roles.sql. Another process may be at it.
do $$
begin
    perform pg_advisory_xact_lock(hashtext('vitals roles'));
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
