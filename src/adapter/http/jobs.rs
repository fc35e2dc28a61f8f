//! `/jobs`: what takes longer than an answer may.
//!
//! Guarantees that a job is its tenant's alone, and is shown to those who may start one of
//! its kind, by whichever instance is asked.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};

use super::extract::Id;
use super::problem::Problem;
use super::reply::Reply;
use super::rules_state::RulesState;
use super::to_wire;
use crate::auth::{Caller, Scope};
use crate::export::StoredExports;
use crate::jobs::{Job, JobKind, JobState, Jobs};
use crate::wire::{self, JobProgress, Time};

/// What it takes to start a job of a kind, and so to look at it and to end it.
fn scope(kind: JobKind) -> Scope {
    match kind {
        JobKind::Backtest => Scope::RulesManage,
        JobKind::Reassign => Scope::ReadingsCorrect,
        JobKind::Export => Scope::VitalsRead,
    }
}

pub(super) async fn find(jobs: &Jobs, caller: &Caller, id: uuid::Uuid) -> Result<Job, Problem> {
    // Who may start none is told so, whatever the id.
    let mut may = JobKind::ALL.into_iter().map(|kind| caller.may_administer(scope(kind)));
    may.find(Result::is_ok).unwrap_or_else(|| caller.may_administer(scope(JobKind::Backtest)))?;
    let job = jobs.get(&caller.tenant, id).await?;
    let job = job.ok_or_else(|| Problem::not_found("job"))?;
    caller.may_administer(scope(job.kind))?;
    Ok(job)
}

/// `GET /jobs/{id}`: how far it is, then its result.
pub async fn get(
    State(rules_state): State<RulesState>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Reply<wire::Job>, Problem> {
    let job = find(&rules_state.jobs, &caller, id).await?;
    Reply::tagged(&headers, &shown(job)?)
}

fn shown(job: Job) -> Result<wire::Job, Problem> {
    let result = job.result.as_deref().map(|result| to_wire::stored("a job's result", result));
    let kind = match job.kind {
        JobKind::Backtest => wire::JobKind::Backtest,
        JobKind::Reassign => wire::JobKind::Reassign,
        JobKind::Export => wire::JobKind::Export,
    };
    let place = format!("/api/v1/jobs/{}", job.id);
    let has_data = job.kind == JobKind::Export && job.result.is_some();
    let data = has_data.then(|| ("data", format!("{place}/result")));
    Ok(wire::Job {
        id: job.id,
        kind,
        state: match job.state {
            JobState::Waiting => wire::JobState::Waiting,
            JobState::Running => wire::JobState::Running,
            JobState::Done => wire::JobState::Done,
            JobState::Failed => wire::JobState::Failed,
            JobState::Cancelled => wire::JobState::Cancelled,
        },
        asked_by: job.asked_by,
        asked_at: job.asked_at.into(),
        started_at: job.started_at.map(Time),
        ended_at: job.ended_at.map(Time),
        progress: JobProgress { readings: job.done, of: job.total },
        result: result.transpose()?,
        error: job.error,
        links: [("self", place)].into_iter().chain(data).collect(),
    })
}

/// `DELETE /jobs/{id}`: stops it. What has to be undone goes on until it is; what is over stays
/// as it is, but for the bytes of an export, which are there no longer.
pub async fn cancel(
    State(rules_state): State<RulesState>,
    caller: Caller,
    Id(id): Id,
) -> Result<StatusCode, Problem> {
    let job = find(&rules_state.jobs, &caller, id).await?;
    rules_state.jobs.cancel(&caller.tenant, id).await?;
    if job.kind == JobKind::Export {
        StoredExports::new(rules_state.log.pool().clone()).expire(&caller.tenant, id).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
