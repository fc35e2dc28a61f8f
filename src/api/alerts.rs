//! `/alerts`: what stands, what stood, and who has answered.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::Caller;
use super::extract::{Id, Json, Params};
use super::patients::{Questions, limit};
use super::problem::Problem;
use super::wire;
use crate::clock::rfc3339;
use crate::event::{is_fhir_id, number};
use crate::query::alerts::{self, Alert, Filter};

/// Alerts of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;
/// The longest name and note of an acknowledgement.
const BY_CHARS_MAX: usize = 200;
const NOTE_CHARS_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListParams {
    state: Option<String>,
    patient_id: Option<String>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// `GET /alerts`, newest first.
pub async fn list(
    State(questions): State<Questions>,
    caller: Caller,
    Params(params): Params<ListParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may("alerts:read")?;
    if let Some(state) = params.state.as_deref()
        && !["active", "cleared", "missed", "retracted"].contains(&state)
    {
        let detail = "state is one of active, cleared, missed, retracted";
        return Err(Problem::unreadable("invalid_state", detail));
    }
    if let Some(patient_id) = &params.patient_id {
        if !is_fhir_id(patient_id) {
            let detail = "patientId must match [A-Za-z0-9\\-.]{1,64}";
            return Err(Problem::unreadable("invalid_id", detail));
        }
        caller.may_see(patient_id)?;
    }
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let after: Option<(i64, Uuid)> = params.cursor.as_deref().map(wire::place).transpose()?;
    let after = after.map(|(micros, id)| wire::time(micros).map(|at| (at, id))).transpose()?;
    let filter = Filter {
        state: params.state.clone(),
        patient_id: params.patient_id.clone().or_else(|| caller.patient.clone()),
        after,
        limit,
    };
    let (alerts, fresh) = alerts::list(&questions.log, &caller.tenant, &filter).await?;
    let next = (alerts.len() as i64 == limit).then(|| alerts.last()).flatten();
    let next = next.map(|last| wire::cursor(&(last.since.timestamp_micros(), last.id)));
    let items: Vec<Value> = alerts
        .iter()
        .filter(|alert| caller.sees_device(&alert.device_id))
        .map(wire::alert)
        .collect();
    let query = [("state", &params.state), ("patientId", &params.patient_id)]
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", wire::encode(value.as_ref()?))))
        .collect::<Vec<_>>()
        .join("&");
    let body = wire::list(items, next, "/api/v1/alerts", &query);
    Ok(wire::mark_freshness(wire::tagged(&headers, &body.clone(), body), fresh))
}

async fn find(questions: &Questions, caller: &Caller, id: Uuid) -> Result<Alert, Problem> {
    let alert = alerts::get(&questions.log, &caller.tenant, id)
        .await?
        // What a narrow token may not see does not exist for it.
        .filter(|alert| caller.sees_device(&alert.device_id))
        .filter(|alert| caller.may_see(&alert.patient_id).is_ok())
        .ok_or_else(|| Problem::not_found("alert"))?;
    Ok(alert)
}

/// `GET /alerts/{id}`, with the reading that raised it.
pub async fn get(
    State(questions): State<Questions>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may("alerts:read")?;
    let alert = find(&questions, &caller, id).await?;
    let mut body = wire::alert(&alert);
    body["readings"] = json!([{
        "patientId": alert.patient_id,
        "deviceId": alert.device_id,
        "vital": alert.vital.name(),
        "value": number(alert.value),
        "unit": alert.unit,
        "measuredAt": rfc3339(alert.since),
    }]);
    let history = alerts::said(&questions.log, &caller.tenant, &alert).await?;
    let body = explained(body, &history);
    Ok(wire::tagged(&headers, &body.clone(), body))
}

/// What the alert is made of, and everything that was said of it.
fn explained(mut body: Value, history: &[alerts::Said]) -> Value {
    // The last one: a correction may have put it on another reading.
    let newest = history.iter().rev().find(|said| said.data.get("because").is_some());
    body["because"] = newest.map(|said| said.data["because"].clone()).unwrap_or_default();
    body["history"] = history
        .iter()
        .map(|said| {
            let of = |key: &str| said.data.get(key).cloned().unwrap_or_default();
            json!({
                "type": said.kind,
                "state": of("state"),
                "value": of("value"),
                "deviceId": of("deviceId"),
                "measuredAt": of("measuredAt"),
                "silentDevice": of("silentDevice"),
                "rule": of("rule"),
                "ruleVersion": of("ruleVersion"),
                "by": said.data.pointer("/acknowledged/by").cloned().unwrap_or_else(|| of("by")),
                "silencedBy": of("silencedBy"),
                "at": rfc3339(said.at),
                "recordedAt": rfc3339(said.recorded_at),
            })
        })
        .collect();
    body
}

#[derive(Deserialize)]
pub struct Ack {
    by: Option<String>,
    note: Option<String>,
}

/// `POST /alerts/{id}/ack`. The first acknowledgement counts; another one is
/// answered with the first. Who came by a link says who they are, and is shown no more
/// than that: the link may have left the hospital.
pub async fn acknowledge(
    State(questions): State<Questions>,
    caller: Caller,
    Id(id): Id,
    Json(ack): Json<Ack>,
) -> Result<Response, Problem> {
    caller.may("alerts:ack")?;
    let unnamed = if caller.linked { String::new() } else { caller.subject.clone() };
    let by = ack.by.unwrap_or(unnamed);
    check_text("/by", &by, 1, BY_CHARS_MAX)?;
    check_text("/note", ack.note.as_deref().unwrap_or_default(), 0, NOTE_CHARS_MAX)?;
    let alert = find(&questions, &caller, id).await?;
    if alert.acknowledged.is_none() {
        let (log, now): (_, DateTime<Utc>) = (&questions.log, questions.clock.now());
        let note = ack.note.as_deref();
        alerts::acknowledge(log, &caller.tenant, &alert, &by, note, now).await?;
    }
    let alert = find(&questions, &caller, id).await?;
    let body = wire::alert(&alert);
    let body = match caller.linked {
        true => json!({ "id": id, "state": body["state"], "acknowledged": body["acknowledged"] }),
        false => body,
    };
    Ok(axum::Json(body).into_response())
}

/// `POST /alerts/{id}/clear`: over, says a person. The rules clear it; one that is over
/// already stays as it is.
pub async fn clear(
    State(questions): State<Questions>,
    caller: Caller,
    Id(id): Id,
    Json(ack): Json<Ack>,
) -> Result<Response, Problem> {
    caller.may("alerts:ack")?;
    let by = ack.by.unwrap_or_else(|| caller.subject.clone());
    check_text("/by", &by, 1, BY_CHARS_MAX)?;
    check_text("/note", ack.note.as_deref().unwrap_or_default(), 0, NOTE_CHARS_MAX)?;
    let alert = find(&questions, &caller, id).await?;
    if alert.state == "active" {
        let (log, now): (_, DateTime<Utc>) = (&questions.log, questions.clock.now());
        let note = ack.note.as_deref();
        alerts::request_clear(log, &caller.tenant, &alert, &by, note, now).await?;
    }
    let alert = find(&questions, &caller, id).await?;
    Ok(axum::Json(wire::alert(&alert)).into_response())
}

fn check_text(pointer: &str, text: &str, min: usize, max: usize) -> Result<(), Problem> {
    if (min..=max).contains(&text.chars().count()) && !text.contains('\0') {
        return Ok(());
    }
    let detail = format!("{} is a text of {min} to {max} characters", &pointer[1..]);
    Err(Problem::invalid("invalid_text", pointer, detail))
}
