//! `/patients`: the directory, and how a patient is or was.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::extract::{Params, PatientId};
use super::problem::Problem;
use super::reply::Reply;
use super::{cursor, to_wire, wards};
use crate::auth::{Caller, Scope};
use crate::clock::{Clock, rfc3339};
use crate::limits::shares::Share;
use crate::log::Log;
use crate::query::moment::Moment;
use crate::query::patients::{Listed, PatientFilter};
use crate::query::{patients, state as states};
use crate::vital::Vital;
use crate::wire::{self, Number, Page, Quality, Time, ValueByName};

/// Patients of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 100;
pub(super) const LIMIT_MAX: i64 = 500;

/// What these routes stand on.
#[derive(Clone)]
pub struct QueryState {
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) tables: Share,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateParams {
    as_of: Option<Time>,
    known_at: Option<Time>,
    fields: Option<String>,
}

/// `GET /patients/{patient_id}`
pub async fn state(
    State(questions): State<QueryState>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    Params(params): Params<StateParams>,
    headers: HeaderMap,
) -> Result<Reply<wire::State>, Problem> {
    caller.may(Scope::VitalsRead)?;
    caller.may_see(&patient_id)?;
    let moment =
        Moment { as_of: params.as_of.map(|t| t.0), known_at: params.known_at.map(|t| t.0) };
    let device = caller.device.as_deref();
    let found = states::state(&questions.log, &caller.tenant, &patient_id, moment, device).await?;
    let state = found.ok_or_else(|| Problem::not_found("patient"))?;
    let fresh = state.fresh;
    let body = to_wire::state(&patient_id, state, questions.clock.now())?;
    Ok(Reply::tagged_with(&headers, &body, params.fields.as_deref())?.fresh(fresh))
}

/// `GET /patients/{patient_id}/heart-rate` and its siblings.
pub async fn vital(
    State(questions): State<QueryState>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    Path((_, path)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Reply<wire::Newest>, Problem> {
    caller.may(Scope::VitalsRead)?;
    caller.may_see(&patient_id)?;
    let Some(vital) = Vital::from_path(&path) else {
        let paths: Vec<&str> = Vital::all().map(Vital::path).collect();
        let detail = format!("\"{path}\" is no vital's path: use one of {}", paths.join(", "));
        return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_vital", detail));
    };
    let device = caller.device.as_deref();
    let found = states::newest(&questions.log, &caller.tenant, &patient_id, vital, device).await?;
    let (newest, fresh) = found.ok_or_else(|| Problem::not_found("reading"))?;
    let body = wire::Newest {
        patient_id: patient_id.into(),
        value: ValueByName(vital, Number(newest.value)),
        unit: vital.unit().into(),
        timestamp: newest.measured_at.into(),
        device_id: newest.device_id.into(),
        quality: Quality::of(newest.suspect),
    };
    Ok(Reply::tagged(&headers, &body)?.fresh(fresh))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PatientListParams {
    ward: Option<String>,
    cursor: Option<String>,
    limit: Option<i64>,
    as_of: Option<Time>,
    known_at: Option<Time>,
    fields: Option<String>,
}

/// `GET /patients`, now or at a moment. Pages of a moment are all of the one that the first
/// page was settled to: their cursors hold it.
pub async fn list(
    State(questions): State<QueryState>,
    caller: Caller,
    Params(params): Params<PatientListParams>,
    headers: HeaderMap,
) -> Result<Reply<Page<wire::State>>, Problem> {
    caller.may(Scope::VitalsRead)?;
    if caller.device.is_some() {
        let detail = "the token is for one device, and the list is of patients";
        return Err(Problem::forbidden("outside_token", detail));
    }
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let (log, link) = (&questions.log, "/api/v1/patients");
    let mut moment =
        Moment { as_of: params.as_of.map(|t| t.0), known_at: params.known_at.map(|t| t.0) };
    let (patients, all_known) = wards::seen(log, &caller, Scope::VitalsRead).await?;
    let mut filter = PatientFilter {
        ward: params.ward.clone(),
        patient_id: caller.patient.clone(),
        patients,
        after: None,
        limit,
    };
    let (listed, moment) = if moment == Moment::default() {
        filter.after =
            params.cursor.as_deref().map(|it| cursor::read(log, it, link)).transpose()?;
        (patients::list(&questions.log, &caller.tenant, &filter).await?, moment)
    } else {
        let after = params.cursor.as_deref().map(|it| cursor::read(log, it, link));
        let after: Option<(String, i64)> = after.transpose()?;
        if let Some((after, known_at)) = after {
            filter.after = Some(after);
            moment.known_at = Some(cursor::time(known_at)?);
        }
        patients::list_at(&questions.log, &caller.tenant, &filter, moment).await?
    };
    let last = (listed.len() as i64 == limit).then(|| listed.last()).flatten();
    let next = last.map(|last| match moment.known_at {
        None => cursor::write(log, &last.patient_id),
        Some(known_at) => cursor::write(log, &(&last.patient_id, known_at.timestamp_micros())),
    });
    let fresh = all_known && listed.iter().all(|patient| patient.state.fresh);
    let now = questions.clock.now();
    let item = |Listed { patient_id, ward, state }: Listed| {
        Ok(wire::State { ward, ..to_wire::state(&patient_id, state, now)? })
    };
    let items = listed.into_iter().map(item).collect::<Result<Vec<_>, Problem>>()?;
    let time =
        |name: &str, at: Option<DateTime<Utc>>| at.map(|at| format!("{name}={}", rfc3339(at)));
    let query = [
        params.ward.map(|ward| format!("ward={}", cursor::url_encode(&ward))),
        time("asOf", moment.as_of),
        time("knownAt", moment.known_at),
        params.limit.map(|limit| format!("limit={limit}")),
        params.fields.as_deref().map(|fields| format!("fields={}", cursor::url_encode(fields))),
    ];
    let query = query.into_iter().flatten().collect::<Vec<_>>().join("&");
    let page = Page::new(items, next, link, &query);
    let reply = Reply::tagged_with(&headers, &page, params.fields.as_deref())?;
    Ok(reply.fresh(fresh).next(page.links.next.as_ref()))
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
