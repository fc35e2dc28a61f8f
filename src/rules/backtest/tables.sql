-- The log's partitions with their pages, as many as there are now.
select c.relname::text, pg_relation_size(c.oid) / current_setting('block_size')::bigint
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'reading'::regclass
