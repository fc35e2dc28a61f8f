//! `POST /patients/{patient_id}/readings/retract`: a reading was entered in error.
//!
//! Guarantees one answer however often it is asked: who asks again is told who was
//! first, and why. Does not take the reading out of the log.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};

use super::extract::{Json, PatientId};
use super::patients::QueryState;
use super::problem::Problem;
use super::reply::Reply;
use crate::auth::{Caller, Scope};
use crate::clock::truncate_to_micros;
use crate::event::{ID_RULE, is_fhir_id};
use crate::record::retract::{self, RetractError, Retraction};
use crate::vital::{UnknownVital, Vital};
use crate::wire::{self, Number, Retracted};

/// The longest reason.
const REASON_CHARS_MAX: usize = 1_000;

/// Retracts a reading: 201 the first time, 200 after that.
pub async fn retract(
    State(questions): State<QueryState>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    Json(body): Json<wire::Retraction>,
) -> Result<Reply<Retracted>, Problem> {
    caller.may(Scope::ReadingsCorrect)?;
    caller.may_see(&patient_id)?;
    let retraction = read(body, patient_id, &caller.subject)?;
    if !caller.sees_device(&retraction.device_id) {
        let detail = "the token is for another device: it corrects its own readings only";
        return Err(Problem::forbidden("outside_token", detail));
    }
    let retracted = retract::retract(&questions.log, &caller.tenant, &retraction).await?;
    let status = if retracted.again { StatusCode::OK } else { StatusCode::CREATED };
    let body = Retracted {
        patient_id: retraction.patient_id.into(),
        vital: retraction.vital,
        device_id: retraction.device_id.into(),
        measured_at: retraction.measured_at.into(),
        value: Number(retracted.value),
        unit: retraction.vital.unit().into(),
        reason: retracted.reason,
        by: retracted.by,
        retracted_at: retracted.retracted_at.into(),
    };
    Reply::new(status, &body)
}

fn read(body: wire::Retraction, patient_id: String, by: &str) -> Result<Retraction, Problem> {
    let vital = required(body.vital, "/vital")?;
    let vital: Vital = vital.parse().map_err(|error: UnknownVital| {
        Problem::invalid("unknown_vital", "/vital", error.to_string())
    })?;
    let device_id = required(body.device_id, "/deviceId")?;
    if !is_fhir_id(&device_id) {
        let detail = format!("deviceId {ID_RULE}");
        return Err(Problem::invalid("invalid_id", "/deviceId", detail));
    }
    let measured_at = time(&required(body.measured_at, "/measuredAt")?, "/measuredAt")?;
    let reason = reason(body.reason)?;
    Ok(Retraction { patient_id, vital, device_id, measured_at, reason, by: by.to_owned() })
}

/// A time as it is written.
pub(super) fn time(text: &str, pointer: &str) -> Result<DateTime<Utc>, Problem> {
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| truncate_to_micros(time.to_utc())).map_err(|_| {
        let detail = format!(
            "\"{text}\" is no RFC 3339 time with a zone: write it as readings have it, \
             2025-10-20T10:20:00Z"
        );
        Problem::invalid("invalid_time", pointer, detail)
    })
}

/// Why something is done, for others to read.
pub(super) fn reason(given: Option<String>) -> Result<String, Problem> {
    let reason = required(given, "/reason")?;
    let fits = (1..=REASON_CHARS_MAX).contains(&reason.trim().chars().count());
    if !fits || reason.contains('\0') {
        let detail = format!("reason is a text of 1 to {REASON_CHARS_MAX} characters, for others");
        return Err(Problem::invalid("invalid_reason", "/reason", detail));
    }
    Ok(reason)
}

pub(super) fn required(value: Option<String>, pointer: &'static str) -> Result<String, Problem> {
    value.ok_or_else(|| {
        let detail = format!("{} is missing", pointer.trim_start_matches('/'));
        Problem::invalid("missing_field", pointer, detail)
    })
}

impl From<RetractError> for Problem {
    fn from(error: RetractError) -> Problem {
        match error {
            RetractError::Unknown => Problem::not_found("reading"),
            RetractError::Archived(span) => {
                Problem::new(StatusCode::GONE, "month_archived", error.to_string())
                    .with(|document| document.month = Some(span.to_string()))
            }
            RetractError::Append(error) => error.into(),
        }
    }
}
