-- Puts away $1 parts at most of exports that have expired, and of those whose job was forgotten
-- or ended without one; and the exports of which no part was left. How many bytes are kept.
-- Nobody writes to them: who writes holds a job that runs.
with over as materialized (
    select e.job
    from export e
    left join job j on j.id = e.job
    where j.id is null or j.state in ('failed', 'cancelled')
       or e.expires_at < statement_timestamp()
), swept as (
    delete from export_part
    where (job, first) in (select p.job, p.first
                           from over
                           join export_part p on p.job = over.job
                           limit $1)
    returning job
), forgotten as (
    delete from export
    where job in (select job from over) and not exists (select from export_part p where p.job = export.job)
    returning job
)
select coalesce(sum(bytes), 0)::bigint from export
