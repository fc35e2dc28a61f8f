//! `/devices`: what sends, and whether it sends as it should.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::Params;
use super::patients::{Questions, limit};
use super::problem::Problem;
use super::wire;
use crate::auth::Caller;
use crate::clock::rfc3339;
use crate::event::{is_fhir_id, number};
use crate::query::devices::{self, Device, Filter};

/// Devices of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 500;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListParams {
    patient_id: Option<String>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// `GET /devices`, by device and patient.
pub async fn list(
    State(questions): State<Questions>,
    caller: Caller,
    Params(params): Params<ListParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may("vitals:read")?;
    if let Some(patient_id) = &params.patient_id {
        caller.may_see(patient_id)?;
    }
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let cursor = |cursor| wire::place(&questions.log, cursor, "/api/v1/devices");
    let filter = Filter {
        device_id: caller.device.clone(),
        patient_id: caller.patient.clone().or(params.patient_id.clone()),
        after: params.cursor.as_deref().map(cursor).transpose()?,
        limit,
    };
    let (found, fresh) = devices::list(&questions.log, &caller.tenant, &filter).await?;
    let next = (found.len() as i64 == limit)
        .then(|| {
            found
                .last()
                .map(|last| wire::cursor(&questions.log, &(&last.device_id, &last.patient_id)))
        })
        .flatten();
    let items: Vec<Value> = found.iter().map(item).collect();
    let query = params.patient_id.map(|id| format!("patientId={}", wire::encode(&id)));
    let body = wire::list(items, next, "/api/v1/devices", &query.unwrap_or_default());
    Ok(wire::mark_freshness(wire::tagged(&headers, &body.clone(), body), fresh))
}

/// `GET /devices/{id}`: at each patient that it has measured.
pub async fn get(
    State(questions): State<Questions>,
    caller: Caller,
    Path(device_id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may("vitals:read")?;
    if !caller.sees_device(&device_id) {
        return Err(Problem::forbidden("outside_token", "the token is for another device"));
    }
    if !is_fhir_id(&device_id) {
        return Err(Problem::not_found("device"));
    }
    let filter = Filter {
        device_id: Some(device_id.clone()),
        patient_id: caller.patient.clone(),
        after: None,
        limit: LIMIT_MAX,
    };
    let (found, fresh) = devices::list(&questions.log, &caller.tenant, &filter).await?;
    if found.is_empty() {
        return Err(Problem::not_found("device"));
    }
    let patients: Vec<Value> = found.iter().map(item).collect();
    let body = json!({ "deviceId": device_id, "patients": patients });
    Ok(wire::mark_freshness(wire::tagged(&headers, &body.clone(), body), fresh))
}

fn item(device: &Device) -> Value {
    let coverage = device.coverage();
    json!({
        "deviceId": device.device_id,
        "patientId": device.patient_id,
        "lastSeen": rfc3339(device.last_seen),
        "lastRecorded": device.last_recorded.map(rfc3339),
        "readings": device.readings,
        "suspects": device.suspects,
        "intervalSeconds": coverage.map(|c| number(c.interval_seconds)),
        "intervalFrom": coverage.map(|c| if c.is_registered { "registered" } else { "learnt" }),
        "coverage": coverage.map(|c| (c.share * 1000.0).round() / 1000.0),
        "delaySeconds": device.delay_min_seconds,
        "hours": devices::COVERAGE_HOURS,
    })
}
