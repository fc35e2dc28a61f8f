//! Trials of a rule over the recorded history: as a job, and before it may page.
//!
//! Guarantees that a trial that an answer waits for is bounded in time and number, and that
//! one tenant's do not keep another's from being tried.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use chrono::DateTime;
use serde_json::Value;

use super::extract::{Body, unreadable_json};
use super::problem::Problem;
use super::reply::Reply;
use super::rules_state::RulesState;
use crate::auth::{Caller, Scope};
use crate::clock::END_OF_TIME;
use crate::jobs::{JobKind, JobRequest, SubmitError};
use crate::rules::Rule;
use crate::rules::backtest::{
    self, BacktestError, BacktestQuery, JobHandle, Report, Trial, TrialError,
};
use crate::wire::JobStarted;

/// A trial before a rule's activation may take so long.
const TRIAL_MS_MAX: u64 = 20_000;
/// `POST /rules/backtest`: 202, and a job.
pub async fn start(
    State(rules_state): State<RulesState>,
    caller: Caller,
    Body(bytes): Body,
) -> Result<Reply<JobStarted>, Problem> {
    caller.may_administer(Scope::RulesManage)?;
    let body: Value = serde_json::from_slice(&bytes)
        .map_err(|error| unreadable_json(&error, "; a trial is JSON, as {\"rule\": {…}}"))?;
    // Refused now, and not when its turn has come.
    Trial::read(&body)?;
    let (tenant, by) = (&*caller.tenant, &*caller.subject);
    let wanted = JobRequest { tenant, kind: JobKind::Backtest, argument: &body, by };
    let id = rules_state.jobs.submit(wanted).await?;
    let place = format!("/api/v1/jobs/{id}");
    let body = JobStarted { id, links: [("self", place.clone())].into() };
    Ok(Reply::new(StatusCode::ACCEPTED, &body)?.at(&place))
}

/// Refuses a rule that would have paged more often than it says itself.
pub(super) async fn refuse_too_many_pages(
    rules_state: &RulesState,
    tenant: &Arc<str>,
    rule: Rule,
) -> Result<(), Problem> {
    let Some(max) = rule.pages_max else { return Ok(()) };
    let _turn = rules_state.trying.begin(tenant)?;
    let rule = Arc::new(rule);
    let question = BacktestQuery {
        tenant: tenant.to_string(),
        from: DateTime::UNIX_EPOCH,
        to: END_OF_TIME,
        rules: vec![rule.clone()],
        keeps_times: false,
    };
    let progress = JobHandle::default();
    let tried = backtest::run(&rules_state.log, question, &progress, None);
    let limit = Duration::from_millis(TRIAL_MS_MAX);
    let Ok(found) = tokio::time::timeout(limit, tried).await else {
        progress.stop.cancel();
        let detail = "the history is too long to try the rule here: POST /rules/backtest, and then \
                      force it with a reason";
        return Err(Problem::invalid("backtest_too_long", "/max_pages_per_patient_day", detail));
    };
    let report = Report::of(&found?, 0, &rule);
    if report.alerts_per_patient_day <= max {
        return Ok(());
    }
    let detail = format!(
        "over the recorded history it would have paged {} times in {:.1} patient-days, {:.3} a \
         patient-day, and {max} is allowed: change it, or force it with a reason",
        report.alerts, report.patient_days, report.alerts_per_patient_day
    );
    let problem = Problem::invalid("too_many_pages", "/max_pages_per_patient_day", detail);
    Err(problem.with(|document| document.backtest = Some(Box::new(report))))
}

impl From<TrialError> for Problem {
    fn from(TrialError { code, error }: TrialError) -> Problem {
        Problem::invalid(code, error.pointer.trim_end_matches('/'), error.what)
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Problem {
        let detail = error.to_string();
        match error {
            SubmitError::Database(error) => error.into(),
            SubmitError::Full => Problem::unavailable("jobs_busy", detail),
            SubmitError::TenantFull => {
                Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_jobs", detail)
                    .header(header::RETRY_AFTER, HeaderValue::from_static("5"))
            }
        }
    }
}

impl From<BacktestError> for Problem {
    fn from(error: BacktestError) -> Problem {
        match error {
            BacktestError::Database(error) => error.into(),
            BacktestError::Archived(_) => {
                Problem::new(StatusCode::GONE, "month_archived", error.to_string())
            }
            BacktestError::TooMany | BacktestError::TooManyTrials { .. } => Problem::invalid(
                "backtest_too_long",
                "/max_pages_per_patient_day",
                error.to_string(),
            ),
            BacktestError::Format(_)
            | BacktestError::Lines(_)
            | BacktestError::Worker
            | BacktestError::Cancelled => {
                tracing::error!(%error, "a backtest ended early");
                Problem::unavailable("backtest_failed", "the backtest ended early: try again")
            }
        }
    }
}
