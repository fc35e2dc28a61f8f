//! `/patients`: the directory, and how a patient is or was.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Caller;
use super::extract::{Params, PatientId, Time};
use super::problem::Problem;
use super::shares::Share;
use super::wire;
use crate::clock::{Clock, rfc3339};
use crate::event::number;
use crate::log::Log;
use crate::query::patients::{Filter, Listed};
use crate::query::state::Moment;
use crate::query::{patients, state as states};
use crate::vital::Vital;

/// Patients of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 500;

/// What these routes stand on.
#[derive(Clone)]
pub struct Questions {
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) tables: Share,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateParams {
    as_of: Option<Time>,
    known_at: Option<Time>,
}

/// `GET /patients/{patient_id}`
pub async fn state(
    State(questions): State<Questions>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    Params(params): Params<StateParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may("vitals:read")?;
    caller.may_see(&patient_id)?;
    let moment =
        Moment { as_of: params.as_of.map(|t| t.0), known_at: params.known_at.map(|t| t.0) };
    let device = caller.device.as_deref();
    let found = states::state(&questions.log, &caller.tenant, &patient_id, moment, device).await?;
    let state = found.ok_or_else(|| Problem::not_found("patient"))?;
    let now = questions.clock.now();
    let body = wire::state(&patient_id, &state, now);
    let unchanging =
        json!([&body["ward"], &body["alerts"], &body["news2"], format!("{:?}", state.vitals)]);
    Ok(wire::mark_freshness(wire::tagged(&headers, &unchanging, body), state.fresh))
}

/// `GET /patients/{patient_id}/heart-rate` and its siblings.
pub async fn vital(
    State(questions): State<Questions>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    Path((_, path)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may("vitals:read")?;
    caller.may_see(&patient_id)?;
    let Some(vital) = Vital::from_path(&path) else {
        let paths: Vec<&str> = Vital::all().map(Vital::path).collect();
        let detail = format!("\"{path}\" is no vital's path: use one of {}", paths.join(", "));
        return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_vital", detail));
    };
    let device = caller.device.as_deref();
    let found = states::newest(&questions.log, &caller.tenant, &patient_id, vital, device).await?;
    let (newest, fresh) = found.ok_or_else(|| Problem::not_found("reading"))?;
    let body = json!({
        "patientId": patient_id,
        (vital.json_key()): number(newest.value),
        "unit": vital.unit(),
        "timestamp": rfc3339(newest.measured_at),
        "deviceId": newest.device_id,
        "quality": wire::quality(newest.suspect),
    });
    Ok(wire::mark_freshness(wire::tagged(&headers, &body.clone(), body), fresh))
}

#[derive(Deserialize)]
pub struct ListParams {
    ward: Option<String>,
    cursor: Option<String>,
    limit: Option<i64>,
}

/// `GET /patients`
pub async fn list(
    State(questions): State<Questions>,
    caller: Caller,
    Params(params): Params<ListParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may("vitals:read")?;
    if caller.device.is_some() {
        let detail = "the token is for one device, and the list is of patients";
        return Err(Problem::forbidden("outside_token", detail));
    }
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let filter = Filter {
        ward: params.ward.clone(),
        patient_id: caller.patient.clone(),
        after: params.cursor.as_deref().map(wire::place::<String>).transpose()?,
        limit,
    };
    let listed = patients::list(&questions.log, &caller.tenant, &filter).await?;
    let next = (listed.len() as i64 == limit)
        .then(|| listed.last().map(|last| wire::cursor(&last.patient_id)))
        .flatten();
    let fresh = listed.iter().all(|patient| patient.state.fresh);
    let now = questions.clock.now();
    let unchanging = format!("{listed:?}");
    let item = |Listed { patient_id, ward, state }: Listed| {
        let mut body = wire::state(&patient_id, &state, now);
        body["ward"] = json!(ward);
        body
    };
    let items: Vec<Value> = listed.into_iter().map(item).collect();
    let query = params.ward.map(|ward| format!("ward={}", wire::encode(&ward)));
    let body = wire::list(items, next, "/api/v1/patients", &query.unwrap_or_default());
    Ok(wire::mark_freshness(wire::tagged(&headers, &unchanging, body), fresh))
}

/// A page's length.
pub fn limit(asked: Option<i64>, default: i64, max: i64) -> Result<i64, Problem> {
    match asked.unwrap_or(default) {
        n if (1..=max).contains(&n) => Ok(n),
        _ => {
            Err(Problem::unreadable("invalid_limit", format!("limit must lie within 1 and {max}")))
        }
    }
}
