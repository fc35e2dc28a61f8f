//! Running jobs: as many at once as there is room for, and no tenant's twice.
//!
//! Guarantees that a process that stops gives its jobs back, that one that was cancelled
//! or taken over is not worked at any longer than [`BEAT_MS`], and that an end is written
//! only by who holds the job.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::job::{JobKind, Jobs, RESULT_BYTES_MAX};
use super::store::{ClaimedJob, End, LEASE_SECONDS};

/// Jobs that a process runs at once, each of another tenant.
const RUNNING_MAX: usize = 2;
/// How often it looks for what another process accepted.
const POLL_MS: u64 = 500;
/// How often it shows that it lives; a lease outlives several of these.
const BEAT_MS: u64 = 3_000;
/// The longest that a job may run.
const RUN_SECONDS_MAX: u64 = 3_600;
/// How often what is over is swept up.
const SWEEP_SECONDS: u64 = 10;

/// How far a job is, and its end.
#[derive(Clone, Default)]
pub struct JobHandle {
    /// What is done so far.
    pub done: Arc<AtomicU64>,
    /// Of how much, as it is expected; 0 before it is known.
    pub total: Arc<AtomicU64>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// A job, for who does it.
pub struct Task {
    /// Its id, and the number of this claim: who writes anything of it elsewhere names both, and
    /// writes only while the job is running under it.
    pub held: (Uuid, i32),
    /// Whose.
    pub tenant: String,
    /// With what.
    pub argument: Value,
    /// How far it is, and whether to go on.
    pub progress: JobHandle,
}

/// Why nothing came of a job.
#[derive(Debug)]
pub enum Failure {
    /// For whoever asked: as it is asked it cannot be done, and this would mend it.
    Told(String),
    /// It was cancelled, and what it had done is undone.
    Cancelled(String),
    /// Something of ours. It is begun again, a few times; what ends itself always is.
    Ours(String),
}

/// What is done for the jobs of a kind. It may be begun again, by another process as well.
pub trait Work: Send + Sync {
    /// Does it.
    fn run(self: Arc<Self>, task: Task) -> BoxFuture<'static, Result<Value, Failure>>;

    /// Puts away what jobs of the kind have left behind. Called every [`SWEEP_SECONDS`].
    fn sweep(&self) -> BoxFuture<'_, Result<(), sqlx::Error>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Who runs jobs in this process.
pub struct Runner {
    jobs: Jobs,
    works: Vec<(JobKind, Arc<dyn Work>)>,
}

impl Runner {
    /// For these kinds of jobs.
    pub fn new(jobs: Jobs, works: Vec<(JobKind, Arc<dyn Work>)>) -> Runner {
        Runner { jobs, works }
    }

    /// Until told to stop; then what is under way is given back.
    pub async fn run(self, stop: CancellationToken) {
        let mut running: JoinSet<()> = JoinSet::new();
        let mut busy: Vec<(Id, String)> = Vec::new();
        let mut swept: Option<Instant> = None;
        while !stop.is_cancelled() {
            while running.len() < RUNNING_MAX {
                let Some((job, work)) = self.next(&busy).await else { break };
                let tenant = job.tenant.clone();
                let one = one(self.jobs.clone(), work, job, stop.clone());
                busy.push((running.spawn(one).id(), tenant));
            }
            if swept.is_none_or(|at| at.elapsed() >= Duration::from_secs(SWEEP_SECONDS)) {
                swept = Some(Instant::now());
                self.sweep().await;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                Some(ended) = running.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    busy.retain(|(of, _)| *of != id);
                }
                () = self.jobs.asked.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(POLL_MS)) => {}
            }
        }
        while running.join_next().await.is_some() {}
    }

    async fn next(&self, busy: &[(Id, String)]) -> Option<(ClaimedJob, Arc<dyn Work>)> {
        let kinds: Vec<JobKind> = self.works.iter().map(|(kind, _)| *kind).collect();
        let busy: Vec<String> = busy.iter().map(|(_, tenant)| tenant.clone()).collect();
        let claimed = crate::log::answered_soon(self.jobs.claim(&kinds, &busy)).await;
        let job = claimed.unwrap_or_else(|error| {
            tracing::warn!(%error, "no job was taken; trying again");
            None
        })?;
        let work = self.works.iter().find(|(kind, _)| *kind == job.kind);
        work.map(|(_, work)| (job, work.clone()))
    }

    async fn sweep(&self) {
        match crate::log::answered_soon(self.jobs.sweep()).await {
            Ok((waiting, running)) => {
                metrics::gauge!("vitals_jobs", "state" => "waiting").set(waiting as f64);
                metrics::gauge!("vitals_jobs", "state" => "running").set(running as f64);
            }
            Err(error) => tracing::warn!(%error, "jobs were not swept up; trying again"),
        }
        for (kind, work) in &self.works {
            if let Err(error) = crate::log::answered(work.sweep()).await {
                tracing::warn!(%error, kind = kind.name(), "what jobs left was not swept up");
            }
        }
    }
}

/// One job, from its claim to its end.
async fn one(jobs: Jobs, work: Arc<dyn Work>, job: ClaimedJob, stop: CancellationToken) {
    let progress = JobHandle::default();
    let (mut lease, limit) = (Lease::new(), Duration::from_secs(RUN_SECONDS_MAX));
    // Whichever way this ends, the work does.
    let _ended = progress.stop.clone().drop_guard();
    let mut doing = AbortOnDropHandle::new(tokio::spawn(begun(work, &job, &progress)));
    let mut beats = tokio::time::interval(Duration::from_millis(BEAT_MS));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let too_long = tokio::time::sleep(limit);
    tokio::pin!(too_long);
    let end = loop {
        tokio::select! {
            done = &mut doing => break ended(&job, done.unwrap_or_else(|panic| {
                Err(Failure::Ours(panic.to_string()))
            })),
            () = stop.cancelled() => break End::Released,
            () = &mut too_long => {
                if job.kind.ends_itself() {
                    break End::Released;
                }
                break End::Failed(format!("it took longer than {limit:?}: ask for less"));
            }
            _ = beats.tick() => {
                if !lease.beat(&jobs, &job, &progress).await {
                    tracing::info!(id = %job.id, "a job is cancelled, or another's by now");
                    return;
                }
            }
        }
    };
    // How far it came in the end; if that is not written, the end is.
    if matches!(end, End::Done(_)) && !lease.beat(&jobs, &job, &progress).await {
        return;
    }
    write(&jobs, &job, &end, lease).await;
}

fn begun(
    work: Arc<dyn Work>,
    job: &ClaimedJob,
    progress: &JobHandle,
) -> impl Future<Output = Result<Value, Failure>> + use<> {
    let (tenant, progress) = (job.tenant.clone(), progress.clone());
    let held = (job.id, job.claim);
    let argument = serde_json::from_str(&job.argument);
    async move {
        let argument = argument.map_err(|error| Failure::Ours(error.to_string()))?;
        work.run(Task { held, tenant, argument, progress }).await
    }
}

fn ended(job: &ClaimedJob, done: Result<Value, Failure>) -> End {
    match done.map(|result| result.to_string()) {
        Ok(result) if result.len() > RESULT_BYTES_MAX => End::Failed(format!(
            "the result has {} bytes, {RESULT_BYTES_MAX} at most: ask for less",
            result.len()
        )),
        Ok(result) => End::Done(result),
        Err(Failure::Told(why)) => End::Failed(why),
        Err(Failure::Cancelled(why)) => End::Cancelled(why),
        Err(Failure::Ours(error)) => {
            tracing::error!(id = %job.id, kind = job.kind.name(), error, "a job ended early");
            End::Lost
        }
    }
}

/// Writes the end, as long as the job is this process's: after that another one does it.
async fn write(jobs: &Jobs, job: &ClaimedJob, end: &End, lease: Lease) {
    let name = match end {
        End::Done(_) => "done",
        End::Failed(_) => "failed",
        End::Cancelled(_) => "cancelled",
        End::Released => "released",
        End::Lost => "lost",
    };
    loop {
        match crate::log::answered_soon(jobs.end(job, end)).await {
            Ok(true) => {
                let labels = [("kind", job.kind.name()), ("end", name)];
                metrics::counter!("vitals_jobs_ended_total", &labels).increment(1);
                return;
            }
            Ok(false) => {
                tracing::info!(id = %job.id, "a job is cancelled, or another's by now");
                return;
            }
            Err(error) if lease.is_over() => {
                tracing::warn!(id = %job.id, %error, "a job's end was not written; it begins again");
                return;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(POLL_MS)).await,
        }
    }
}

/// Until when the job is this process's, by its own clock.
struct Lease {
    until: Instant,
}

impl Lease {
    fn new() -> Lease {
        Lease { until: Lease::from(Instant::now()) }
    }

    fn from(now: Instant) -> Instant {
        now + Duration::from_secs(u64::from(LEASE_SECONDS.unsigned_abs()))
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Shows a sign of life; whether the job is this process's still.
    async fn beat(&mut self, jobs: &Jobs, job: &ClaimedJob, progress: &JobHandle) -> bool {
        let asked = Instant::now();
        let done = progress.done.load(Ordering::Relaxed);
        let total = progress.total.load(Ordering::Relaxed);
        let limit = Duration::from_millis(BEAT_MS);
        match tokio::time::timeout(limit, jobs.beat(job, done, total)).await {
            Ok(Ok(true)) => {
                self.until = Lease::from(asked);
                true
            }
            Ok(Ok(false)) => false,
            // It may have been written or not; another one may have it when the lease is over.
            Ok(Err(_)) | Err(_) => !self.is_over(),
        }
    }
}
