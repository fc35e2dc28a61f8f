//! `/jobs`: what takes longer than an answer may.
//!
//! Guarantees that a job is its tenant's alone, and is shown to those who may start one of
//! its kind, by whichever instance is asked.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::extract::Id;
use super::problem::Problem;
use super::rules::Rulebook;
use crate::auth::Caller;
use crate::clock::rfc3339;
use crate::jobs::{Job, Kind};

/// What it takes to start a job of a kind, and so to look at it and to end it.
fn scope(kind: Kind) -> &'static str {
    match kind {
        Kind::Backtest => "rules:manage",
    }
}

async fn find(book: &Rulebook, caller: &Caller, id: uuid::Uuid) -> Result<Job, Problem> {
    // Who may start none is told so, whatever the id.
    let refused = Kind::ALL.into_iter().map(|kind| caller.may_administer(scope(kind)));
    refused.reduce(Result::or).unwrap_or(Ok(()))?;
    let job = book.jobs.get(&caller.tenant, id).await?;
    let job = job.ok_or_else(|| Problem::not_found("job"))?;
    caller.may_administer(scope(job.kind))?;
    Ok(job)
}

/// `GET /jobs/{id}`: how far it is, then its result.
pub async fn get(
    State(book): State<Rulebook>,
    caller: Caller,
    Id(id): Id,
) -> Result<Response, Problem> {
    let job = find(&book, &caller, id).await?;
    Ok(axum::Json(shown(&job)?).into_response())
}

fn shown(job: &Job) -> Result<Value, Problem> {
    let result = job.result.as_deref().map(serde_json::from_str::<Value>).transpose();
    let result = result.map_err(|error| sqlx::Error::Decode(error.into()))?;
    let progress = match job.kind {
        Kind::Backtest => json!({ "readings": job.done, "of": job.total }),
    };
    Ok(json!({
        "id": job.id,
        "kind": job.kind.name(),
        "state": job.state.name(),
        "askedBy": job.asked_by,
        "askedAt": rfc3339(job.asked_at),
        "startedAt": job.started_at.map(rfc3339),
        "endedAt": job.ended_at.map(rfc3339),
        "progress": progress,
        "result": result,
        "error": job.error,
        "_links": { "self": format!("/api/v1/jobs/{}", job.id) },
    }))
}

/// `DELETE /jobs/{id}`: stops it. What is over stays as it is.
pub async fn cancel(
    State(book): State<Rulebook>,
    caller: Caller,
    Id(id): Id,
) -> Result<StatusCode, Problem> {
    find(&book, &caller, id).await?;
    book.jobs.cancel(&caller.tenant, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
