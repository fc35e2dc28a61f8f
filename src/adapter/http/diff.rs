//! `GET /patients/{patient_id}/diff`: what was known at a moment, against what is known of
//! it now.

use axum::extract::State;
use axum::http::HeaderMap;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::extract::{Params, PatientId};
use super::history::place;
use super::patients::{QueryState, limit};
use super::problem::Problem;
use super::reply::Reply;
use super::{cursor, to_wire};
use crate::auth::{Caller, Scope};
use crate::clock::rfc3339;
use crate::query::diff::{AlertChange, Changed, DiffQuery, diff as difference};
use crate::query::history::cursor_of;
use crate::wire::{
    self, ChangeOfAlert, ChangeOfReading, ChangedAlert, ChangedReading, DiffLinks, RetractedSince,
    Time,
};

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
    State(questions): State<QueryState>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    Params(params): Params<DiffParams>,
    headers: HeaderMap,
) -> Result<Reply<wire::Diff>, Problem> {
    caller.may(Scope::VitalsRead)?;
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
    let question = DiffQuery {
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
    let next = cursor::next(&questions.log, &found.readings, limit, |last| {
        let place = cursor_of(&last.reading);
        (place.measured_at.timestamp_micros(), place.vital, place.device_id)
    });
    let now = questions.clock.now();
    let patient_id = &question.patient_id;
    let known_at = found.then.moment.known_at.unwrap_or(question.known_at);
    let alert = |(change, alert): &(AlertChange, _)| {
        Ok(ChangedAlert { alert: to_wire::alert(alert)?, change: change_of(*change) })
    };
    let alerts = found.alerts.iter().map(alert).collect::<Result<_, Problem>>()?;
    let reading = |reading| changed(patient_id, reading, known_at);
    let fresh = found.now.fresh;
    let body = wire::Diff {
        patient_id: patient_id.clone().into(),
        as_of: as_of.into(),
        known_at: known_at.into(),
        from: from.into(),
        readings: found.readings.into_iter().map(reading).collect(),
        alerts,
        then: to_wire::state(patient_id, found.then, now)?,
        now: to_wire::state(patient_id, found.now, now)?,
        links: links(patient_id, as_of, known_at, from, limit, next.as_deref()),
        next,
    };
    Ok(Reply::tagged(&headers, &body)?.fresh(fresh))
}

fn changed(patient_id: &str, changed: Changed, known_at: DateTime<Utc>) -> ChangedReading {
    let late = changed.reading.recorded_at > known_at;
    let reason = changed.reason;
    ChangedReading {
        reading: to_wire::reading(patient_id, changed.reading),
        change: if late { ChangeOfReading::Late } else { ChangeOfReading::Retracted },
        retracted: changed
            .retracted_at
            .map(|at| RetractedSince { retracted_at: at.into(), reason }),
    }
}

fn change_of(change: AlertChange) -> ChangeOfAlert {
    match change {
        AlertChange::Added => ChangeOfAlert::Added,
        AlertChange::Removed => ChangeOfAlert::Removed,
        AlertChange::Acknowledged => ChangeOfAlert::Acknowledged,
        AlertChange::Missed => ChangeOfAlert::Missed,
    }
}

fn links(
    patient_id: &str,
    as_of: DateTime<Utc>,
    known_at: DateTime<Utc>,
    from: DateTime<Utc>,
    limit: i64,
    next: Option<&str>,
) -> DiffLinks {
    let patient = format!("/api/v1/patients/{patient_id}");
    let (as_of, known_at, from) = (rfc3339(as_of), rfc3339(known_at), rfc3339(from));
    let this = format!("{patient}/diff?asOf={as_of}&knownAt={known_at}&from={from}&limit={limit}");
    DiffLinks {
        next: next.map(|next| format!("{this}&cursor={next}")),
        this,
        then: format!("{patient}?asOf={as_of}&knownAt={known_at}"),
        now: format!("{patient}?asOf={as_of}"),
        readings: format!("{patient}/readings?from={from}"),
    }
}
