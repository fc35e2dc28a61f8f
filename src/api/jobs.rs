//! `/jobs`: what takes longer than an answer may.
//!
//! Guarantees that a job is its tenant's alone, that few run at once, and that one that
//! is cancelled stops. A job lives in the process that started it: another instance does
//! not know it, and a restart forgets it. It changes nothing, so it can be asked again.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::Caller;
use super::extract::Id;
use super::problem::Problem;
use super::rules::{Rulebook, moment};
use crate::rules::backtest::{BacktestError, Progress};

/// Jobs of a process that run at once.
const JOBS_RUNNING_MAX: usize = 2;
/// Jobs of a process that are remembered, running or not.
const JOBS_KEPT_MAX: usize = 100;

/// The jobs of this process.
#[derive(Clone, Default)]
pub struct Jobs(Arc<Mutex<HashMap<Uuid, Job>>>);

struct Job {
    tenant: String,
    progress: Progress,
    started_at: DateTime<Utc>,
    /// Nothing while it runs.
    outcome: Option<Result<Value, String>>,
}

impl Jobs {
    /// Starts one, unless too many run.
    pub fn start(
        &self,
        tenant: &str,
        progress: Progress,
        now: DateTime<Utc>,
        work: impl Future<Output = Result<Value, BacktestError>> + Send + 'static,
    ) -> Result<Uuid, Problem> {
        let id = Uuid::now_v7();
        let mut jobs = self.lock();
        if jobs.values().filter(|job| job.outcome.is_none()).count() >= JOBS_RUNNING_MAX {
            let detail =
                format!("{JOBS_RUNNING_MAX} jobs are running already: wait for one to end");
            return Err(Problem::unavailable("jobs_busy", detail));
        }
        if jobs.len() >= JOBS_KEPT_MAX {
            let oldest = jobs.iter().filter(|(_, job)| job.outcome.is_some());
            if let Some(id) = oldest.min_by_key(|(_, job)| job.started_at).map(|(id, _)| *id) {
                jobs.remove(&id);
            }
        }
        let (tenant, outcome) = (tenant.to_owned(), None);
        jobs.insert(id, Job { tenant, progress, started_at: now, outcome });
        drop(jobs);
        let (all, work) = (self.clone(), tokio::spawn(work));
        tokio::spawn(async move {
            let outcome = match work.await {
                Ok(Ok(result)) => Ok(result),
                Ok(Err(BacktestError::Cancelled)) => Err("cancelled".to_owned()),
                Ok(Err(BacktestError::Archived(span))) => {
                    Err(BacktestError::Archived(span).to_string())
                }
                failed => {
                    tracing::error!(?failed, "a job ended early");
                    Err("it ended early: try again".to_owned())
                }
            };
            if let Some(job) = all.lock().get_mut(&id) {
                job.outcome = Some(outcome);
            }
        });
        Ok(id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Job>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `GET /jobs/{id}`: how far it is, then its result.
pub async fn get(
    State(book): State<Rulebook>,
    caller: Caller,
    Id(id): Id,
) -> Result<Response, Problem> {
    caller.may_administer("rules:manage")?;
    let jobs = book.jobs.lock();
    let job = jobs.get(&id).filter(|job| *job.tenant == *caller.tenant);
    let job = job.ok_or_else(|| Problem::not_found("job"))?;
    let (state, result, error) = match &job.outcome {
        None => ("running", Value::Null, Value::Null),
        Some(Ok(result)) => ("done", result.clone(), Value::Null),
        Some(Err(why)) if why == "cancelled" => ("cancelled", Value::Null, Value::Null),
        Some(Err(why)) => ("failed", Value::Null, why.clone().into()),
    };
    let body = json!({
        "id": id,
        "state": state,
        "startedAt": moment(Some(job.started_at)),
        "progress": {
            "readings": job.progress.done.load(Ordering::Relaxed),
            "of": job.progress.total.load(Ordering::Relaxed),
        },
        "result": result,
        "error": error,
        "_links": { "self": format!("/api/v1/jobs/{id}") },
    });
    Ok(axum::Json(body).into_response())
}

/// `DELETE /jobs/{id}`: stops it.
pub async fn cancel(
    State(book): State<Rulebook>,
    caller: Caller,
    Id(id): Id,
) -> Result<StatusCode, Problem> {
    caller.may_administer("rules:manage")?;
    let jobs = book.jobs.lock();
    let job = jobs.get(&id).filter(|job| *job.tenant == *caller.tenant);
    let job = job.ok_or_else(|| Problem::not_found("job"))?;
    job.progress.stop.cancel();
    Ok(StatusCode::NO_CONTENT)
}
