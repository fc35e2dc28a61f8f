//! The table of jobs, and every way that it is changed.
//!
//! Guarantees that who no longer holds a job changes nothing of it: each change by who runs
//! it names the claim's number.

use sqlx::PgConnection;
use uuid::Uuid;

use super::job::{
    Job, JobKind, JobRequest, JobState, Jobs, KEPT_HOURS, KEPT_PER_TENANT_MAX, OPEN_MAX,
    OPEN_PER_TENANT_MAX, SubmitError,
};
use crate::log::in_turn;

/// How long a job is its runner's without a sign of life.
pub const LEASE_SECONDS: i32 = 15;
/// A job whose runners ended so often without ending it is not begun again: it may be
/// what ends them.
const LOST_MAX: i16 = 3;
/// A job that was not begun for so long is given up.
const WAIT_HOURS_MAX: i32 = 24;

/// A job that this process holds.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ClaimedJob {
    pub id: Uuid,
    pub tenant: String,
    #[sqlx(try_from = "String")]
    pub kind: JobKind,
    pub argument: String,
    /// The number of this claim.
    pub claim: i32,
}

/// How a runner ends with a job.
#[derive(Debug)]
pub enum End {
    /// With a result, as JSON.
    Done(String),
    /// For a reason that whoever asked can mend.
    Failed(String),
    /// Undone as a whole, because somebody cancelled it.
    Cancelled(String),
    /// Given back whole, because this process stops.
    Released,
    /// Given back because of something of ours; counted.
    Lost,
}

impl Jobs {
    /// Accepts a job: from here on it is done by somebody, or ends with a reason.
    pub async fn submit(&self, wanted: JobRequest<'_>) -> Result<Uuid, SubmitError> {
        let mut tx = self.pool.begin().await?;
        // Who accepts jobs counts them one after the other.
        in_turn(&mut tx, "jobs").await?;
        let (own, all): (i64, i64) = sqlx::query_as(
            "select count(*) filter (where tenant = $1), count(*) from job \
             where state in ('waiting', 'running')",
        )
        .bind(wanted.tenant)
        .fetch_one(&mut *tx)
        .await?;
        let refused = |limit: &'static str, error| {
            metrics::counter!("vitals_jobs_refused_total", "limit" => limit).increment(1);
            Err(error)
        };
        if own >= OPEN_PER_TENANT_MAX {
            return refused("tenant", SubmitError::TenantFull);
        }
        if all >= OPEN_MAX {
            return refused("installation", SubmitError::Full);
        }
        sqlx::query(
            "delete from job where id in (select id from job \
             where tenant = $1 and ended_at is not null order by ended_at desc offset $2)",
        )
        .bind(wanted.tenant)
        .bind(KEPT_PER_TENANT_MAX - 1)
        .execute(&mut *tx)
        .await?;
        let id = Uuid::now_v7();
        sqlx::query(
            "insert into job (id, tenant, kind, argument, asked_by) values ($1, $2, $3, $4::json, $5)",
        )
        .bind(id)
        .bind(wanted.tenant)
        .bind(wanted.kind.name())
        .bind(wanted.argument.to_string())
        .bind(wanted.by)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        self.asked.notify_one();
        Ok(id)
    }

    /// A job of a tenant's, as it stands.
    pub async fn get(&self, tenant: &str, id: Uuid) -> Result<Option<Job>, sqlx::Error> {
        sqlx::query_as(
            "select id, kind, state, asked_by, asked_at, started_at, ended_at, done, total, \
                    result::text, error \
             from job where tenant = $1 and id = $2",
        )
        .bind(tenant)
        .bind(id)
        .fetch_optional(&self.pool)
        .await
    }

    /// Ends a job that is not over. Whoever runs it learns it by their next sign of life. One
    /// that ends itself and was begun goes on until it has undone what it did.
    pub async fn cancel(&self, tenant: &str, id: Uuid) -> Result<(), sqlx::Error> {
        let open = "tenant = $1 and id = $2 and state in ('waiting', 'running')";
        let goes_on = "kind = any ($3) and claim > 0";
        let ended = format!(
            "update job set state = 'cancelled', lease_until = null, cancel_asked_at = statement_timestamp(), \
                    ended_at = statement_timestamp() where {open} and not ({goes_on})"
        );
        let asked = format!(
            "update job set cancel_asked_at = coalesce(cancel_asked_at, statement_timestamp()) \
             where {open} and {goes_on}"
        );
        // In this order: what is begun in between is asked, and never ended.
        for change in [ended, asked] {
            sqlx::query(sqlx::AssertSqlSafe(change))
                .bind(tenant)
                .bind(id)
                .bind(JobKind::ending_themselves())
                .execute(&self.pool)
                .await?;
        }
        Ok(())
    }

    /// Keeps a claim until the transaction ends: nobody else begins the job while it lasts. Whether
    /// it was asked to end; `None` when it is not this claim's any more. Signs of life go on,
    /// and it may be cancelled, unless this is for a decision.
    pub async fn hold(
        tx: &mut PgConnection,
        (id, claim): (Uuid, i32),
        decides: bool,
    ) -> Result<Option<bool>, sqlx::Error> {
        let lock = if decides { "no key update" } else { "key share" };
        let held = format!(
            "select cancel_asked_at is not null from job \
             where id = $1 and claim = $2 and state = 'running' for {lock}"
        );
        sqlx::query_scalar(sqlx::AssertSqlSafe(held)).bind(id).bind(claim).fetch_optional(tx).await
    }

    /// Takes the job whose turn it is, of these kinds and not of these tenants.
    pub(super) async fn claim(
        &self,
        kinds: &[JobKind],
        busy: &[String],
    ) -> Result<Option<ClaimedJob>, sqlx::Error> {
        sqlx::query_as(include_str!("claim.sql"))
            .bind(kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>())
            .bind(busy)
            .bind(LEASE_SECONDS)
            .bind(LOST_MAX)
            .bind(JobKind::ending_themselves())
            .fetch_optional(&self.pool)
            .await
    }

    /// A sign of life, and how far it is. `false` when it is not this claim's any more.
    pub(super) async fn beat(
        &self,
        job: &ClaimedJob,
        done: u64,
        total: u64,
    ) -> Result<bool, sqlx::Error> {
        let beaten = sqlx::query(
            "update job set lease_until = statement_timestamp() + make_interval(secs => $3), \
                    done = $4, total = $5 \
             where id = $1 and claim = $2 and state = 'running'",
        )
        .bind(job.id)
        .bind(job.claim)
        .bind(f64::from(LEASE_SECONDS))
        .bind(i64::try_from(done).unwrap_or(i64::MAX))
        .bind(i64::try_from(total).unwrap_or(i64::MAX))
        .execute(&self.pool)
        .await?;
        Ok(beaten.rows_affected() == 1)
    }

    /// Ends with a job. `false` when it is not this claim's any more: nothing was changed.
    pub(super) async fn end(&self, job: &ClaimedJob, end: &End) -> Result<bool, sqlx::Error> {
        let (state, lost, result, error): (_, i16, _, _) = match end {
            End::Done(result) => (JobState::Done, 0, Some(result), None),
            End::Failed(why) => (JobState::Failed, 0, None, Some(why)),
            End::Cancelled(why) => (JobState::Cancelled, 0, None, Some(why)),
            End::Released => (JobState::Waiting, 0, None, None),
            End::Lost => (JobState::Waiting, 1, None, None),
        };
        let ended = sqlx::query(
            "update job set state = $3, lost = least(lost + $4::smallint, 1000), result = $5::json, error = $6, \
                    lease_until = null, \
                    ended_at = case when $3 <> 'waiting' then statement_timestamp() end \
             where id = $1 and claim = $2 and state = 'running'",
        )
        .bind(job.id)
        .bind(job.claim)
        .bind(state.name())
        .bind(lost)
        .bind(result)
        .bind(error)
        .execute(&self.pool)
        .await?;
        Ok(ended.rows_affected() == 1)
    }

    /// Ends what will never be done, and forgets what ended long ago. How many wait and
    /// how many run.
    pub(super) async fn sweep(&self) -> Result<(i64, i64), sqlx::Error> {
        sqlx::query(
            "update job set state = 'failed', lease_until = null, ended_at = statement_timestamp(), \
                    error = case when lost >= $1 \
                        then 'it ended early each time that it was begun: ask for less, or look into the log of vitals' \
                        else 'nobody had the time to begin with it: ask again' end \
             where state in ('waiting', 'running') \
               and (state = 'waiting' or lease_until < statement_timestamp()) \
               and (lost >= $1 or (state = 'waiting' and asked_at < statement_timestamp() - make_interval(hours => $2))) \
               and not (kind = any ($3) and claim > 0)",
        )
        .bind(LOST_MAX)
        .bind(WAIT_HOURS_MAX)
        .bind(JobKind::ending_themselves())
        .execute(&self.pool)
        .await?;
        sqlx::query(
            "delete from job where ended_at < statement_timestamp() - make_interval(hours => $1)",
        )
        .bind(KEPT_HOURS)
        .execute(&self.pool)
        .await?;
        sqlx::query_as(
            "select count(*) filter (where state = 'waiting'), count(*) filter (where state = 'running') \
             from job where state in ('waiting', 'running')",
        )
        .fetch_one(&self.pool)
        .await
    }
}
