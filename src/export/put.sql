-- Writes a part of the tenant $3's export $1 behind its others: its first byte is at $4, its
-- bytes are $5, and with it $6 readings of $7 patients are written, up to the place $8, with the
-- hash $9. Only while the job is running under the claim $2, which is locked so that nobody takes
-- it over meanwhile; and while a tenant's exports have no more than $10 bytes, and all no more
-- than $11.
with held as materialized (
    select id from job where id = $1 and claim = $2 and state = 'running' for share
), kept as materialized (
    select coalesce(sum(bytes) filter (where tenant = $3), 0)::bigint as own,
           coalesce(sum(bytes), 0)::bigint as everyone
    from export
), moved as (
    update export
    set bytes = bytes + octet_length($5), readings = $6, patients = $7, place = $8::json, hash = $9
    from held, kept
    where job = held.id and bytes = $4
      and kept.own + octet_length($5) <= $10 and kept.everyone + octet_length($5) <= $11
    returning job, tenant
), written as (
    insert into export_part (job, first, tenant, data)
    select job, $4, tenant, $5 from moved
    returning job
)
select exists (select from written) as is_written, exists (select from held) as is_held, own, everyone
from kept
