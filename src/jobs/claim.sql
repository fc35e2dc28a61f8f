-- Takes the job whose turn it is, of the kinds $1 and not of the tenants $2, for $3
-- seconds: of the tenant with the fewest running, and among these of whose jobs of a kind none
-- was begun for longest; then the one that waits for longest. So a tenant with many in the queue
-- holds up no other, and its many of one kind not its own of another. One whose runner has shown
-- no sign of life is taken as well, and counted as lost, unless that happened $4 times; those of
-- the kinds $5 however often that was. What somebody else is about to take is passed over.
with running as (
    select tenant, count(*) as jobs
    from job
    where state = 'running' and lease_until >= statement_timestamp()
    group by tenant
), served as materialized (
    select tenant, kind, max(started_at) as last
    from job
    where tenant in (select tenant from job where state in ('waiting', 'running'))
    group by tenant, kind
), next as (
    select j.id
    from job j
    left join running r on r.tenant = j.tenant
    left join served s on s.tenant = j.tenant and s.kind = j.kind
    where j.state in ('waiting', 'running')
      and (j.state = 'waiting' or j.lease_until < statement_timestamp())
      and (j.lost < $4 or j.kind = any ($5)) and j.kind = any ($1) and not j.tenant = any ($2)
    order by coalesce(r.jobs, 0), s.last nulls first, j.asked_at, j.id
    limit 1
    for update of j skip locked
)
update job
set state = 'running', claim = job.claim + 1,
    lost = least(job.lost + (job.state = 'running')::int, 1000),
    lease_until = statement_timestamp() + make_interval(secs => $3::int),
    started_at = coalesce(job.started_at, statement_timestamp())
from next
where job.id = next.id
returning job.id, job.tenant, job.kind, job.argument::text as argument, job.claim
