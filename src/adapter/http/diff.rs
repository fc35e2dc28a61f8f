//! `GET /patients/{patient_id}/diff`: what was known at a moment, against what is known of
//! it now.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Params, PatientId, Time};
use super::history::place;
use super::patients::{Questions, limit};
use super::problem::Problem;
use super::wire;
use crate::auth::Caller;
use crate::clock::rfc3339;
use crate::query::diff::{Changed, Question, diff as difference};
use crate::query::history::place_of;

/// How far before the moment readings are looked at, unless the caller says otherwise.
const BACK_HOURS: i64 = 24;
/// Readings of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 500;
const LIMIT_MAX: i64 = 10_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiffParams {
    as_of: Option<Time>,
    known_at: Option<Time>,
    from: Option<Time>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// `GET /patients/{patient_id}/diff`
pub async fn diff(
    State(questions): State<Questions>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    Params(params): Params<DiffParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may("vitals:read")?;
    caller.may_see(&patient_id)?;
    let Some(as_of) = params.as_of.map(|t| t.0) else {
        let detail = "a difference is of a moment: name it with asOf=";
        return Err(Problem::unreadable("as_of_required", detail));
    };
    let back = as_of.checked_sub_signed(TimeDelta::hours(BACK_HOURS));
    let from = params.from.map(|t| t.0).or(back).unwrap_or(DateTime::UNIX_EPOCH);
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let link = format!("/api/v1/patients/{patient_id}/diff?asOf={}", rfc3339(as_of));
    let cursor = |cursor| place(&questions.log, cursor, &link);
    let question = Question {
        tenant: caller.tenant.to_string(),
        patient_id,
        device: caller.device.clone(),
        as_of,
        // What the screen could have shown then.
        known_at: params.known_at.map_or(as_of, |t| t.0),
        from,
        after: params.cursor.as_deref().map(cursor).transpose()?,
        limit,
    };
    let found = difference(&questions.log, &question).await?;
    let found = found.ok_or_else(|| Problem::not_found("patient"))?;
    let next = (found.readings.len() as i64 == limit).then(|| found.readings.last()).flatten();
    let next = next.map(|last| {
        let place = place_of(&last.reading);
        wire::cursor(
            &questions.log,
            &(place.measured_at.timestamp_micros(), place.vital, place.device_id),
        )
    });
    let now = questions.clock.now();
    let patient_id = &question.patient_id;
    let known_at = found.then.moment.known_at.unwrap_or(question.known_at);
    let alerts = found.alerts.iter().map(|(change, alert)| {
        let mut body = wire::alert(alert);
        body["change"] = change.name().into();
        body
    });
    let body = json!({
        "patientId": patient_id,
        "asOf": rfc3339(as_of),
        "knownAt": rfc3339(known_at),
        "from": rfc3339(from),
        "readings": found.readings.iter().map(|r| changed(patient_id, r, known_at)).collect::<Vec<_>>(),
        "alerts": alerts.collect::<Vec<_>>(),
        "then": wire::state(patient_id, &found.then, now),
        "now": wire::state(patient_id, &found.now, now),
        "next": next,
        "_links": links(patient_id, as_of, known_at, from, limit, next.as_deref()),
    });
    let fresh = found.now.fresh;
    Ok(wire::mark_freshness(wire::tagged(&headers, &body.clone(), body), fresh))
}

fn changed(patient_id: &str, changed: &Changed, known_at: DateTime<Utc>) -> Value {
    let mut body = wire::reading(patient_id, &changed.reading);
    let late = changed.reading.recorded_at > known_at;
    body["change"] = if late { "late" } else { "retracted" }.into();
    if let Some(retracted_at) = changed.retracted_at {
        body["retractedAt"] = rfc3339(retracted_at).into();
        body["reason"] = json!(changed.reason);
    }
    body
}

fn links(
    patient_id: &str,
    as_of: DateTime<Utc>,
    known_at: DateTime<Utc>,
    from: DateTime<Utc>,
    limit: i64,
    next: Option<&str>,
) -> Value {
    let patient = format!("/api/v1/patients/{patient_id}");
    let (as_of, known_at, from) = (rfc3339(as_of), rfc3339(known_at), rfc3339(from));
    let this = format!("{patient}/diff?asOf={as_of}&knownAt={known_at}&from={from}&limit={limit}");
    json!({
        "self": this,
        "next": next.map(|next| format!("{this}&cursor={next}")),
        "then": format!("{patient}?asOf={as_of}&knownAt={known_at}"),
        "now": format!("{patient}?asOf={as_of}"),
        "readings": format!("{patient}/readings?from={from}"),
    })
}
