-- Who this session is: its name, whether it could rewrite the log, whether it may make roles
-- and may act in the role $2, and whether this server has the roles $1 and $2.
select current_user::text as name,
       r.rolsuper
           or pg_has_role(current_user, d.datdba, 'usage')
           or coalesce((select pg_has_role(current_user, e.relowner, 'usage')
                        from pg_class e where e.oid = to_regclass('public.series')), false)
           as may_rewrite,
       r.rolsuper or r.rolcreaterole as makes_roles,
       to_regclass('public.series') is not null as has_log,
       coalesce(pg_has_role(current_user, to_regrole($2), 'member'), false) as is_walled,
       to_regrole($1) is not null and to_regrole($2) is not null as has_roles
from pg_roles r, pg_database d
where r.rolname = current_user and d.datname = current_database()
