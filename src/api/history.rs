//! `GET /patients/{patient_id}/readings`: what was measured, or buckets of it.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::DateTime;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Caller;
use super::extract::{Params, PatientId, Time};
use super::patients::{Questions, limit};
use super::problem::Problem;
use super::wire;
use crate::clock::rfc3339;
use crate::event::number;
use crate::query::history::{Place, Range, buckets, page};
use crate::query::{END_OF_TIME, state as states};
use crate::vital::Vital;

/// Readings or buckets of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 500;
const LIMIT_MAX: i64 = 10_000;
/// The shortest and the longest bucket.
const EVERY_SECONDS: std::ops::RangeInclusive<f64> = 1.0..=31_622_400.0;

#[derive(Deserialize)]
pub struct HistoryParams {
    vital: Option<String>,
    from: Option<Time>,
    to: Option<Time>,
    every: Option<String>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// Readings in [from, to), oldest first.
pub async fn readings(
    State(questions): State<Questions>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    Params(params): Params<HistoryParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may("vitals:read")?;
    caller.may_see(&patient_id)?;
    let (log, tenant) = (&questions.log, &caller.tenant);
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let vitals = params.vital.as_deref().map(vitals_of).transpose()?.unwrap_or_default();
    let range = Range {
        vitals,
        from: params.from.map_or(DateTime::UNIX_EPOCH, |t| t.0),
        to: params.to.map_or(END_OF_TIME, |t| t.0),
    };
    let (items, next) = if let Some(every) = &params.every {
        in_buckets(&questions, &caller, &patient_id, &range, every, &params, limit).await?
    } else {
        let after = params.cursor.as_deref().map(place).transpose()?;
        let device = caller.device.as_deref();
        let rows = page(log, tenant, &patient_id, &range, after.as_ref(), device, limit).await?;
        let next = (rows.len() as i64 == limit).then(|| rows.last()).flatten().map(|last| {
            let at = last.measured_at.timestamp_micros();
            wire::cursor(&(at, last.vital, &last.device_id))
        });
        (rows.iter().map(|row| wire::reading(&patient_id, row)).collect(), next)
    };
    if items.is_empty() && !states::is_known(log, tenant, &patient_id).await? {
        return Err(Problem::not_found("patient"));
    }
    let body =
        wire::list(items, next, &format!("/api/v1/patients/{patient_id}/readings"), &echo(&params));
    Ok(wire::tagged(&headers, &body.clone(), body))
}

async fn in_buckets(
    questions: &Questions,
    caller: &Caller,
    patient_id: &str,
    range: &Range,
    every: &str,
    params: &HistoryParams,
    limit: i64,
) -> Result<(Vec<Value>, Option<String>), Problem> {
    let seconds = humantime::parse_duration(every).map(|d| d.as_secs_f64()).unwrap_or(0.0);
    if !EVERY_SECONDS.contains(&seconds) {
        let detail = "every is a length of time from 1s to 1y, as 1m or 15m";
        return Err(Problem::unreadable("invalid_every", detail));
    }
    let [vital] = range.vitals[..] else {
        let detail = "buckets are of one vital: name it with vital=";
        return Err(Problem::unreadable("vital_required", detail));
    };
    let from = match params.cursor.as_deref().map(wire::place::<i64>).transpose()? {
        Some(micros) => wire::time(micros)?,
        None => range.from,
    };
    let device = caller.device.as_deref();
    let span = (from, range.to);
    let rows = buckets(
        &questions.log,
        &caller.tenant,
        patient_id,
        vital,
        span,
        seconds,
        device,
        limit + 1,
    )
    .await?;
    let full = rows.len() as i64 > limit;
    let next = full.then(|| rows.last()).flatten();
    let next = next.map(|bucket| wire::cursor(&bucket.start.timestamp_micros()));
    let items = rows.iter().take(limit as usize).map(|bucket| {
        json!({
            "start": rfc3339(bucket.start),
            "min": number(bucket.min),
            "max": number(bucket.max),
            "avg": number(bucket.avg),
            "count": bucket.count,
        })
    });
    Ok((items.collect(), next))
}

/// One vital, or several with commas between them.
fn vitals_of(text: &str) -> Result<Vec<Vital>, Problem> {
    text.split(',')
        .map(|name| {
            name.parse().map_err(|e: crate::vital::UnknownVital| {
                Problem::unreadable("unknown_vital", e.to_string())
            })
        })
        .collect()
}

fn place(cursor: &str) -> Result<Place, Problem> {
    let (micros, vital, device_id): (i64, Vital, String) = wire::place(cursor)?;
    let measured_at = wire::time(micros)?;
    Ok(Place { measured_at, vital, device_id })
}

/// The question again, for links, without its cursor.
fn echo(params: &HistoryParams) -> String {
    let time = |name: &str, time: Option<Time>| time.map(|t| format!("{name}={}", rfc3339(t.0)));
    [
        params.vital.as_deref().map(|vital| format!("vital={}", wire::encode(vital))),
        time("from", params.from),
        time("to", params.to),
        params.every.as_deref().map(|every| format!("every={}", wire::encode(every))),
        params.limit.map(|limit| format!("limit={limit}")),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join("&")
}
