-- A session $1 begins, named $2, of the subject $4 of the tenant $3 with the claims $5, from $6 to
-- $7. Those that are over by then go, and of the subject's the oldest end that are more than $8
-- with it. One statement: it sees none of what it does itself.
with gone as (
    delete from session where ends_at < $6
), oldest as (
    update session set ended_at = clock_timestamp()
    where id in (
        select id from session
        where tenant = $3 and subject = $4 and ended_at is null and ends_at >= $6
        order by signed_in_at desc
        offset $8 - 1
    )
)
insert into session (id, name, tenant, subject, claims, signed_in_at, seen_at, ends_at)
values ($1, $2, $3, $4, $5::text::json, $6, $6, $7)
