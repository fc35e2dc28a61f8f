//! `/silences`: pages held back, by whom, why, until when, and which.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::extract::{Id, Json, Time};
use super::problem::Problem;
use super::rules::Rulebook;
use super::wire;
use crate::auth::Caller;
use crate::clock::rfc3339;
use crate::event::{ID_RULE, is_fhir_id};
use crate::rules::registry::Silence;
use crate::rules::silences::{self, NoEffect, SilenceError};

/// The longest silence.
const SILENCE_HOURS_MAX: i64 = 24;
/// Why.
const REASON_CHARS_MAX: usize = 1_000;
/// A ward's name.
const WARD_CHARS_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wanted {
    rule: Option<String>,
    patient_id: Option<String>,
    ward: Option<String>,
    reason: String,
    until: Time,
}

/// `POST /silences`
pub async fn create(
    State(book): State<Rulebook>,
    caller: Caller,
    Json(wanted): Json<Wanted>,
) -> Result<Response, Problem> {
    caller.may_administer("alerts:ack")?;
    let now = book.clock.now();
    check(&wanted, now)?;
    let silence = Silence {
        id: Uuid::now_v7(),
        rule: wanted.rule,
        patient_id: wanted.patient_id,
        ward: wanted.ward,
        by: caller.subject.clone(),
        reason: wanted.reason,
        from: now,
        until: wanted.until.0,
    };
    silences::begin(&book.log, &caller.tenant, &silence, &caller.subject, now).await?;
    Ok((StatusCode::CREATED, axum::Json(shown(&silence))).into_response())
}

fn check(wanted: &Wanted, now: chrono::DateTime<chrono::Utc>) -> Result<(), Problem> {
    let invalid = |pointer, detail: &str| Err(Problem::invalid("invalid_silence", pointer, detail));
    let reason = wanted.reason.chars().count();
    if wanted.reason.trim().is_empty() || reason > REASON_CHARS_MAX || wanted.reason.contains('\0')
    {
        return invalid("/reason", "reason is a text of 1 to 1000 characters");
    }
    if wanted.until.0 <= now || wanted.until.0 > now + TimeDelta::hours(SILENCE_HOURS_MAX) {
        return invalid("/until", "until lies within the next 24 hours: a silence has an end");
    }
    for (pointer, id) in [("/rule", &wanted.rule), ("/patientId", &wanted.patient_id)] {
        if id.as_ref().is_some_and(|id| !is_fhir_id(id)) {
            return invalid(pointer, &format!("an id {ID_RULE}"));
        }
    }
    let ward = |ward: &String| ward.chars().count() > WARD_CHARS_MAX || ward.contains('\0');
    if wanted.ward.as_ref().is_some_and(ward) {
        return invalid("/ward", "ward is a text of at most 64 characters");
    }
    if wanted.rule.is_none() && wanted.patient_id.is_none() && wanted.ward.is_none() {
        return invalid("", "name a rule, a patientId or a ward: a silence of everything is none");
    }
    Ok(())
}

/// `GET /silences`, newest first.
pub async fn list(
    State(book): State<Rulebook>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_administer("alerts:ack")?;
    let all = silences::all(&book.log, &caller.tenant).await?;
    let body = wire::list(all.iter().map(shown).collect(), None, "/api/v1/silences", "");
    Ok(wire::tagged(&headers, &body.clone(), body))
}

/// `GET /silences/{id}`: the receipt, with what it held back.
pub async fn get(
    State(book): State<Rulebook>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_administer("alerts:ack")?;
    let silence = find(&book, &caller, id).await?;
    let body = receipt(&book, &caller, &silence).await?;
    Ok(wire::tagged(&headers, &body.clone(), body))
}

/// `DELETE /silences/{id}`: it ends now. The answer is its receipt.
pub async fn end(
    State(book): State<Rulebook>,
    caller: Caller,
    Id(id): Id,
) -> Result<Response, Problem> {
    caller.may_administer("alerts:ack")?;
    let now = book.clock.now();
    let mut silence = find(&book, &caller, id).await?;
    if now < silence.until {
        silence.until = now;
        silences::set(&book.log, &caller.tenant, &silence, &caller.subject, now).await?;
    }
    Ok(axum::Json(receipt(&book, &caller, &silence).await?).into_response())
}

async fn find(book: &Rulebook, caller: &Caller, id: Uuid) -> Result<Silence, Problem> {
    let all = silences::all(&book.log, &caller.tenant).await?;
    all.into_iter().find(|s| s.id == id).ok_or_else(|| Problem::not_found("silence"))
}

async fn receipt(book: &Rulebook, caller: &Caller, silence: &Silence) -> Result<Value, Problem> {
    let held = silences::held_back(&book.log, &caller.tenant, silence.id).await?;
    let item = |(patient_id, mut data): (String, Value)| {
        data["patientId"] = patient_id.into();
        data
    };
    let mut body = shown(silence);
    body["heldBack"] = held.into_iter().map(item).collect();
    Ok(body)
}

fn shown(silence: &Silence) -> Value {
    json!({
        "id": silence.id,
        "rule": silence.rule,
        "patientId": silence.patient_id,
        "ward": silence.ward,
        "by": silence.by,
        "reason": silence.reason,
        "from": rfc3339(silence.from),
        "until": rfc3339(silence.until),
        "_links": { "self": format!("/api/v1/silences/{}", silence.id) },
    })
}

impl From<SilenceError> for Problem {
    fn from(error: SilenceError) -> Problem {
        match error {
            SilenceError::Database(error) => error.into(),
            SilenceError::Append(error) => error.into(),
            SilenceError::Unreadable(error) => error.into(),
            SilenceError::Rules(error) => error.into(),
            SilenceError::NoEffect(NoEffect { pointer, why }) => {
                Problem::invalid("silence_has_no_effect", pointer, why)
            }
        }
    }
}
