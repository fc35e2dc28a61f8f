//! `/rules`: a tenant's rules, their versions, and what they would cost in pages.
//!
//! A change counts from its event on: readings that were recorded before are judged by
//! the version before.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequest;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Caller;
use super::extract::{Body, Json, Params, Time};
use super::jobs::Jobs;
use super::problem::Problem;
use super::wire;
use crate::clock::{Clock, rfc3339};
use crate::log::Log;
use crate::query::END_OF_TIME;
use crate::rules::backtest::{
    self, Axis, BacktestError, Found, Progress, Question, Report, compared, picture, variants,
};
use crate::rules::versions::{self, ChangeError, Version};
use crate::rules::{Mode, Rule, RuleError};

/// A trial before a rule's activation may take so long.
const TRIAL_MS_MAX: u64 = 20_000;
/// Why a rule was changed.
const REASON_CHARS_MAX: usize = 1_000;

/// What these routes stand on.
#[derive(Clone)]
pub struct Rulebook {
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) jobs: Jobs,
}

/// `GET /rules`: the newest version of each.
pub async fn list(
    State(book): State<Rulebook>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_administer("rules:manage")?;
    let all = versions::newest(&book.log, &caller.tenant).await?;
    let items = all.iter().map(shown).collect();
    let body = wire::list(items, None, "/api/v1/rules", "");
    Ok(wire::tagged(&headers, &body.clone(), body))
}

/// `GET /rules/{id}/versions`, oldest first.
pub async fn history(
    State(book): State<Rulebook>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_administer("rules:manage")?;
    let all = versions::versions(&book.log, &caller.tenant).await?;
    let items: Vec<Value> = all.iter().filter(|v| v.id() == id).map(shown).collect();
    if items.is_empty() {
        return Err(Problem::not_found("rule"));
    }
    let body =
        wire::list(items, None, &format!("/api/v1/rules/{}/versions", wire::encode(&id)), "");
    Ok(wire::tagged(&headers, &body.clone(), body))
}

fn shown(version: &Version) -> Value {
    let id = version.id();
    json!({
        "id": id,
        "version": version.version,
        "mode": version.rule.get("mode").cloned().unwrap_or_else(|| "draft".into()),
        "rule": version.rule,
        "by": version.by,
        "reason": version.reason,
        "at": version.at.map(rfc3339),
        "_links": {
            "self": format!("/api/v1/rules/{id}"),
            "versions": format!("/api/v1/rules/{id}/versions"),
        },
    })
}

#[derive(Deserialize)]
pub struct ChangeParams {
    reason: Option<String>,
    #[serde(default)]
    force: bool,
}

/// `PUT /rules/{id}`: the rule in JSON, or in TOML as `application/toml`.
pub async fn put(
    State(book): State<Rulebook>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<ChangeParams>,
    request: Request,
) -> Result<Response, Problem> {
    caller.may_administer("rules:manage")?;
    check_reason(&params)?;
    let mut body = rule_of(request).await?;
    let Some(members) = body.as_object_mut() else {
        return Err(Problem::invalid("invalid_rule", "/", "a rule is an object of keys"));
    };
    let named = members.entry("id").or_insert_with(|| id.clone().into());
    if named.as_str() != Some(&id) {
        let detail = format!("the rule's id must be that of the path, {id}");
        return Err(Problem::invalid("invalid_rule", "/id", detail));
    }
    let rule = Rule::read(&body, 1)?;
    if rule.mode == Mode::Active && !params.force {
        refuse_too_many_pages(&book, &caller.tenant, rule).await?;
    }
    let why = params.reason.as_deref();
    let now = book.clock.now();
    let version =
        versions::change(&book.log, &caller.tenant, body, (&caller.subject, why), now).await?;
    Ok(axum::Json(shown(&version)).into_response())
}

/// `DELETE /rules/{id}`: retired. Alerts that stand go on until they clear.
pub async fn retire(
    State(book): State<Rulebook>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<ChangeParams>,
) -> Result<StatusCode, Problem> {
    caller.may_administer("rules:manage")?;
    check_reason(&params)?;
    let all = versions::newest(&book.log, &caller.tenant).await?;
    let last = all.iter().find(|version| version.id() == id);
    let mut body = last.ok_or_else(|| Problem::not_found("rule"))?.rule.clone();
    body["mode"] = "retired".into();
    let why = params.reason.as_deref();
    let now = book.clock.now();
    versions::change(&book.log, &caller.tenant, body, (&caller.subject, why), now).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn check_reason(params: &ChangeParams) -> Result<(), Problem> {
    let reason = params.reason.as_deref().unwrap_or_default();
    if reason.chars().count() > REASON_CHARS_MAX {
        let detail = format!("reason has {REASON_CHARS_MAX} characters at most");
        return Err(Problem::unreadable("invalid_reason", detail));
    }
    if params.force && reason.trim().is_empty() {
        let detail = "force needs a reason: it is kept with the version";
        return Err(Problem::unreadable("invalid_reason", detail));
    }
    Ok(())
}

async fn rule_of(request: Request) -> Result<Value, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_toml = kind.is_some_and(|kind| kind.starts_with("application/toml"));
    let Body(bytes) = Body::from_request(request, &()).await?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Problem::unreadable("unreadable_rule", "the rule is not UTF-8"))?;
    if text.contains("\\u0000") || text.contains('\0') {
        return Err(Problem::unreadable("unreadable_rule", "the rule holds a NUL character"));
    }
    if is_toml {
        // Read here as well, so that a refusal names its line.
        Rule::parse(text, 1)?;
        return toml::from_str(text)
            .map_err(|error| Problem::unreadable("unreadable_rule", error.message()));
    }
    serde_json::from_str(text)
        .map_err(|error| Problem::unreadable("unreadable_json", error.to_string()))
}

async fn refuse_too_many_pages(book: &Rulebook, tenant: &str, rule: Rule) -> Result<(), Problem> {
    let Some(max) = rule.pages_max else { return Ok(()) };
    let rule = Arc::new(rule);
    let question = Question {
        tenant: tenant.to_owned(),
        from: DateTime::UNIX_EPOCH,
        to: END_OF_TIME,
        rules: vec![rule.clone()],
        keeps_times: false,
    };
    let progress = Progress::default();
    let tried = backtest::run(&book.log, question, &progress, None);
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
    Err(problem.with("backtest", json!(report)))
}

/// What a backtest is asked. A rule is given as JSON, or named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    rule: Value,
    from: Option<Time>,
    to: Option<Time>,
    against: Option<String>,
    #[serde(default)]
    sweep: Vec<String>,
}

/// `POST /rules/backtest`: 202, and a job.
pub async fn trial(
    State(book): State<Rulebook>,
    caller: Caller,
    Json(trial): Json<Trial>,
) -> Result<Response, Problem> {
    caller.may_administer("rules:manage")?;
    let rule = Rule::read(&trial.rule, 1).map_err(|error| within("/rule", error))?;
    let axes: Vec<Axis> = trial
        .sweep
        .iter()
        .map(|axis| axis.parse())
        .collect::<Result<_, _>>()
        .map_err(|error| Problem::invalid("invalid_sweep", "/sweep", format!("{error}")))?;
    let settings = variants(&trial.rule, &axes, 1)
        .map_err(|error| Problem::invalid("invalid_sweep", "/sweep", error.to_string()))?;
    let mut rules: Vec<Arc<Rule>> = settings.iter().map(|(_, rule)| rule.clone()).collect();
    let against = match trial.against.as_deref() {
        None => false,
        Some("active") if axes.is_empty() => {
            let active = versions::active(&book.log, &caller.tenant).await?;
            rules.extend(active.into_iter().filter(|r| r.event == rule.event).map(Arc::new));
            rules.len() > 1
        }
        Some(_) => {
            let detail = "against is \"active\", and goes with no sweep";
            return Err(Problem::invalid("invalid_against", "/against", detail));
        }
    };
    let question = Question {
        tenant: caller.tenant.to_string(),
        from: trial.from.map_or(DateTime::UNIX_EPOCH, |t| t.0),
        to: trial.to.map_or(END_OF_TIME, |t| t.0),
        rules,
        keeps_times: against,
    };
    let (log, progress) = (book.log.clone(), Progress::default());
    let running = progress.clone();
    let work = async move {
        let found = backtest::run(&log, question, &running, None).await?;
        Ok::<Value, BacktestError>(result(&found, &axes, settings, against))
    };
    let id = book.jobs.start(&caller.tenant, progress, book.clock.now(), work)?;
    let place = format!("/api/v1/jobs/{id}");
    let mut answer =
        (StatusCode::ACCEPTED, axum::Json(json!({ "id": id, "_links": { "self": place } })))
            .into_response();
    if let Ok(place) = HeaderValue::from_str(&place) {
        answer.headers_mut().insert(header::LOCATION, place);
    }
    Ok(answer)
}

fn result(
    found: &Found,
    axes: &[Axis],
    settings: Vec<(Vec<Value>, Arc<Rule>)>,
    against: bool,
) -> Value {
    let reports: Vec<Report> =
        settings.iter().enumerate().map(|(n, (_, rule))| Report::of(found, n, rule)).collect();
    if axes.is_empty() {
        return json!({ "report": reports.first(), "against": against.then(|| compared(found)) });
    }
    let rates = reports.iter().map(|report| report.alerts_per_patient_day);
    let points: Vec<(Vec<Value>, f64)> =
        settings.into_iter().zip(rates).map(|((setting, _), rate)| (setting, rate)).collect();
    let rows: Vec<Value> = points
        .iter()
        .zip(&reports)
        .map(|((setting, _), report)| {
            json!({
                "setting": setting,
                "alerts": report.alerts,
                "alertsPerPatientDay": report.alerts_per_patient_day,
                "patientsWithAlerts": report.patients_with_alerts,
                "alarmPart": report.alarm_part,
            })
        })
        .collect();
    let keys: Vec<&str> = axes.iter().map(|axis| &*axis.key).collect();
    let title = format!("{}: alerts a patient-day", reports.first().map_or("", |r| &*r.rule));
    json!({ "axes": keys, "settings": rows, "picture": picture(&title, axes, &points) })
}

fn within(at: &str, error: RuleError) -> Problem {
    let pointer = format!("{at}{}", error.pointer.trim_end_matches('/'));
    Problem::invalid("invalid_rule", &pointer, error.what)
}

impl From<RuleError> for Problem {
    fn from(error: RuleError) -> Problem {
        let problem = Problem::invalid("invalid_rule", &error.pointer, error.to_string());
        match error.line {
            Some(line) => problem.with("line", line.into()),
            None => problem,
        }
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Problem {
        match error {
            ChangeError::Rule(error) => error.into(),
            ChangeError::Database(error) => error.into(),
            ChangeError::Append(error) => error.into(),
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
            error => {
                tracing::error!(%error, "a backtest ended early");
                Problem::unavailable("backtest_failed", "the backtest ended early: try again")
            }
        }
    }
}

/// A time that a job began, or ended.
pub(super) fn moment(at: Option<DateTime<Utc>>) -> Value {
    at.map(rfc3339).into()
}
