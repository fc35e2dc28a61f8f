-- What the service's role $1, or the role $2 behind the wall, may and should not, in words.
with role as (
    select oid, rolname::text as name, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls
    from pg_roles where rolname in ($1, $2)
), relation as (
    select c.oid, c.relname::text as name, c.relrowsecurity,
           c.relname in ('series', 'reading', 'reading_context', 'non_reading', 'log_commit', 'shard_head',
                         'installation')
               or exists (select from pg_inherits i
                          where i.inhrelid = c.oid and i.inhparent = 'public.reading'::regclass) as of_log,
           exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant'
                                                and a.attnum > 0 and not a.attisdropped) as has_wall
    from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
)
select name || ' is a superuser, makes roles or databases, or passes row-level security'
from role where rolsuper or rolcreaterole or rolcreatedb or rolbypassrls
union all
select role.name || ' is a member of ' || other.rolname
from role join pg_roles other
  on pg_has_role(role.oid, other.oid, 'member') and other.rolname not in ($1, $2)
where not role.rolsuper
union all
select role.name || ' owns ' || c.relname from role join pg_class c on c.relowner = role.oid
where c.relpersistence <> 't'
union all
select role.name || ' owns the function ' || p.proname from role join pg_proc p on p.proowner = role.oid
union all
select role.name || ' may create in the schema public'
from role where has_schema_privilege(role.oid, 'public', 'create')
union all
select role.name || ' may change rows of ' || relation.name
from role, relation
where relation.of_log
  and (has_table_privilege(role.oid, relation.oid, 'insert, update, delete, truncate')
       or case relation.name
              when 'shard_head' then has_column_privilege(role.oid, relation.oid, 'position', 'update')
                                     or has_column_privilege(role.oid, relation.oid, 'hash', 'update')
              else has_any_column_privilege(role.oid, relation.oid, 'insert, update')
          end)
union all
select 'no row-level security on ' || relation.name
from role, relation
where role.name = $2 and relation.has_wall and not relation.relrowsecurity
  and has_table_privilege(role.oid, relation.oid, 'select')
order by 1
