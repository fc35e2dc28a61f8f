//! `/devices`: what sends, and whether it sends as it should.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::Deserialize;

use super::extract::Params;
use super::patients::{QueryState, limit};
use super::problem::Problem;
use super::reply::Reply;
use super::{cursor, wards};
use crate::auth::{Caller, Scope};
use crate::event::is_fhir_id;
use crate::query::devices::{self, Device, DeviceFilter};
use crate::wire::{self, DeviceAtPatients, IntervalFrom, Number, Page, Time};

/// Devices of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 500;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceListParams {
    patient_id: Option<String>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// `GET /devices`, by device and patient.
pub async fn list(
    State(questions): State<QueryState>,
    caller: Caller,
    Params(params): Params<DeviceListParams>,
    headers: HeaderMap,
) -> Result<Reply<Page<wire::Device>>, Problem> {
    caller.may(Scope::VitalsRead)?;
    if let Some(patient_id) = &params.patient_id {
        caller.may_see(patient_id)?;
    }
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let place = |cursor| cursor::read(&questions.log, cursor, "/api/v1/devices");
    let (patients, all_known) = wards::seen(&questions.log, &caller, Scope::VitalsRead).await?;
    let filter = DeviceFilter {
        device_id: caller.device.clone(),
        patient_id: caller.patient.clone().or(params.patient_id.clone()),
        patients,
        after: params.cursor.as_deref().map(place).transpose()?,
        limit,
    };
    let (found, fresh) = devices::list(&questions.log, &caller.tenant, &filter).await?;
    let next =
        cursor::next(&questions.log, &found, limit, |last| (&*last.device_id, &*last.patient_id));
    let items = found.into_iter().map(item).collect();
    let query = params.patient_id.map(|id| format!("patientId={}", cursor::url_encode(&id)));
    let body = Page::new(items, next, "/api/v1/devices", &query.unwrap_or_default());
    Ok(Reply::tagged(&headers, &body)?.fresh(fresh && all_known).next(body.links.next.as_ref()))
}

/// `GET /devices/{id}`: at each patient that it has measured.
pub async fn get(
    State(questions): State<QueryState>,
    caller: Caller,
    Path(device_id): Path<String>,
    headers: HeaderMap,
) -> Result<Reply<DeviceAtPatients>, Problem> {
    caller.may(Scope::VitalsRead)?;
    if !caller.sees_device(&device_id) {
        return Err(Problem::forbidden("outside_token", "the token is for another device"));
    }
    if !is_fhir_id(&device_id) {
        return Err(Problem::not_found("device"));
    }
    let (patients, all_known) = wards::seen(&questions.log, &caller, Scope::VitalsRead).await?;
    let filter = DeviceFilter {
        device_id: Some(device_id.clone()),
        patient_id: caller.patient.clone(),
        patients,
        after: None,
        limit: LIMIT_MAX,
    };
    let (found, fresh) = devices::list(&questions.log, &caller.tenant, &filter).await?;
    if found.is_empty() {
        return Err(Problem::not_found("device"));
    }
    let patients = found.into_iter().map(item).collect();
    let body = DeviceAtPatients { device_id: device_id.into(), patients };
    Ok(Reply::tagged(&headers, &body)?.fresh(fresh && all_known))
}

fn item(device: Device) -> wire::Device {
    let coverage = device.coverage();
    wire::Device {
        device_id: device.device_id.into(),
        patient_id: device.patient_id.into(),
        last_seen: device.last_seen.into(),
        last_recorded: device.last_recorded.map(Time),
        readings: device.readings,
        suspects: device.suspects,
        interval_seconds: coverage.map(|c| Number(c.interval_seconds)),
        interval_from: coverage.map(|c| match c.is_registered {
            true => IntervalFrom::Registered,
            false => IntervalFrom::Learnt,
        }),
        coverage: coverage.map(|c| (c.share * 1000.0).round() / 1000.0),
        delay_seconds: device.delay_min_seconds,
        hours: devices::COVERAGE_HOURS,
    }
}
