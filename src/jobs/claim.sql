-- Takes the job whose turn it is, of the kinds $1 and not of the tenants $2, for $3
-- seconds: of the tenant with the fewest running, the one that waits for longest. One
-- whose runner has shown no sign of life is taken as well, and counted as lost, unless
-- that happened $4 times; those of the kinds $5 however often that was. What somebody else is about to take is passed over.
with running as (
    select tenant, count(*) as jobs
    from job
    where state = 'running' and lease_until >= statement_timestamp()
    group by tenant
), next as (
    select j.id
    from job j
    left join running r on r.tenant = j.tenant
    where j.state in ('waiting', 'running')
      and (j.state = 'waiting' or j.lease_until < statement_timestamp())
      and (j.lost < $4 or j.kind = any ($5)) and j.kind = any ($1) and not j.tenant = any ($2)
    order by coalesce(r.jobs, 0), j.asked_at, j.id
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
