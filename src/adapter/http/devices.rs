//! `/devices`: what sends, and whether it sends as it should.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::extract::Params;
use super::patients::{QueryState, limit};
use super::problem::Problem;
use super::reply::Reply;
use super::{assignment, cursor, wards};
use crate::auth::{Caller, Scope};
use crate::devices as registry;
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
    let mut ids: Vec<String> = found.iter().map(|device| device.device_id.clone()).collect();
    ids.dedup();
    let known = registry::find(&questions.log, &caller.tenant, &ids, None).await?;
    let now = questions.clock.now();
    let items = found
        .into_iter()
        .map(|device| {
            let known = known.get(&device.device_id);
            item(device, known, now)
        })
        .collect();
    let query = params.patient_id.map(|id| format!("patientId={}", cursor::url_encode(&id)));
    let body = Page::new(items, next, "/api/v1/devices", &query.unwrap_or_default());
    Ok(Reply::tagged(&headers, &body)?.fresh(fresh && all_known).next(body.links.next.as_ref()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceParams {
    as_of: Option<Time>,
    known_at: Option<Time>,
}

/// `GET /devices/{id}`: at each patient that it has measured, under any of its ids; what is
/// registered of it, and where it was and is, now or at a moment.
pub async fn get(
    State(questions): State<QueryState>,
    caller: Caller,
    Path(device_id): Path<String>,
    Params(params): Params<DeviceParams>,
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
    let (log, tenant, now) = (&questions.log, &*caller.tenant, questions.clock.now());
    let known_at = params.known_at.map(|time| time.0);
    let ids = std::slice::from_ref(&device_id);
    let known = registry::find(log, tenant, ids, known_at).await?.remove(&device_id);
    // Of what is at the moment, whatever moment is asked for.
    let present = match known_at {
        None => known.clone(),
        Some(_) => registry::find(log, tenant, ids, None).await?.remove(&device_id),
    };
    let present = present.unwrap_or_default();
    // Who has a device's token sees what that device sent.
    let owner = present.alias_of.as_deref().unwrap_or(&device_id);
    let all = match &caller.device {
        Some(own) => vec![own.clone()],
        None => present.ids(owner),
    };
    let (mut found, mut fresh) = (Vec::new(), true);
    for id in all {
        let filter = DeviceFilter {
            device_id: Some(id),
            patient_id: caller.patient.clone(),
            patients: patients.clone(),
            after: None,
            limit: LIMIT_MAX,
        };
        let (of_id, is_fresh) = devices::list(log, tenant, &filter).await?;
        found.extend(of_id);
        fresh &= is_fresh;
    }
    let known = known.unwrap_or_default();
    let of_wards = |id: &str| patients.as_ref().is_none_or(|seen| seen.iter().any(|p| p == id));
    let is_own = |id: &str| caller.patient.as_deref().is_none_or(|own| own == id) && of_wards(id);
    let as_of = params.as_of.map(|time| time.0);
    let is_then = |one: &wire::Assignment| {
        as_of.is_none_or(|at| one.from.0 <= at && one.to.is_none_or(|to| at < to.0))
    };
    let assignments: Vec<wire::Assignment> = assignment::assignments(&known)
        .filter(|one| is_then(one) && is_own(one.patient_id.as_ref()))
        .collect();
    // Who may see some patients learns of no device that was never there.
    let is_there = !found.is_empty() || !assignments.is_empty();
    let is_narrow = caller.patient.is_some() || patients.is_some();
    if !is_there && (is_narrow || !(known.is_known() || known.alias_of.is_some())) {
        return Err(Problem::not_found("device"));
    }
    let body = DeviceAtPatients {
        device_id: device_id.into(),
        patients: found.into_iter().map(|device| item(device, Some(&present), now)).collect(),
        alias_of: known.alias_of.clone().map(Into::into),
        registered: assignment::registered(&known),
        assignments,
        reassignment: known.under_way().map(|one| format!("/api/v1/jobs/{}", one.id)),
    };
    Ok(Reply::tagged(&headers, &body)?.fresh(fresh && all_known))
}

fn item(mut device: Device, known: Option<&registry::Device>, now: DateTime<Utc>) -> wire::Device {
    // What the patient's record says of it goes before.
    let registered = known.and_then(|known| known.registered.as_ref());
    let interval = registered.and_then(|registered| registered.registration.interval_seconds);
    device.registered_seconds = device.registered_seconds.or(interval);
    let assigned = known.and_then(|known| known.patient_at(now)) == Some(&*device.patient_id);
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
        assigned,
    }
}
