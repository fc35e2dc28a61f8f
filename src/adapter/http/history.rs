//! `GET /patients/{patient_id}/readings`: what was measured, buckets of it, as much of it
//! as a chart can show, or all of it as one table.

pub(super) mod format;
mod table;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use chrono::DateTime;
use serde::Deserialize;

use self::format::HistoryFormat;
use super::extract::{Params, PatientId};
use super::patients::{QueryState, limit};
use super::problem::Problem;
use super::reply::Reply;
use super::{cursor, to_wire};
use futures_util::StreamExt;

use crate::auth::{Caller, Scope};
use crate::clock::rfc3339;
use crate::limits::shares::{Permit, ShareHolder};
use crate::log::Log;
use crate::query::buckets::buckets;
use crate::query::bulk;
use crate::query::chart::downsample;
use crate::query::history::{HistoryCursor, HistoryQuery, TimeRange, page};
use crate::query::state::Newest;
use crate::query::{END_OF_TIME, state as states};
use crate::vital::Vital;
use crate::wire::{Bucket, History, Item, Number, Page, TableFormat, Time};

/// Readings or buckets of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 500;
const LIMIT_MAX: i64 = 10_000;
/// The shortest and the longest bucket.
const EVERY_SECONDS: std::ops::RangeInclusive<f64> = 1.0..=31_622_400.0;
/// The fewest and the most points of a chart.
const POINTS: std::ops::RangeInclusive<usize> = 3..=10_000;

#[derive(Deserialize)]
pub struct HistoryParams {
    vital: Option<String>,
    from: Option<Time>,
    to: Option<Time>,
    every: Option<String>,
    points: Option<usize>,
    limit: Option<i64>,
    cursor: Option<String>,
    fields: Option<String>,
}

/// Readings in [from, to), oldest first.
pub async fn readings(
    State(questions): State<QueryState>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    Params(params): Params<HistoryParams>,
    headers: HeaderMap,
) -> Result<Reply<History>, Problem> {
    caller.may(Scope::VitalsRead)?;
    caller.may_see(&patient_id)?;
    let format = HistoryFormat::wanted(&headers)?;
    let log = &questions.log;
    let vitals = params.vital.as_deref().map(vitals_of).transpose()?.unwrap_or_default();
    let question = HistoryQuery {
        tenant: caller.tenant.to_string(),
        patient_id,
        range: TimeRange {
            vitals,
            from: params.from.map_or(DateTime::UNIX_EPOCH, |t| t.0),
            to: params.to.map_or(END_OF_TIME, |t| t.0),
        },
        device: caller.device.clone(),
    };
    if let HistoryFormat::Table(format) = format {
        let place = questions.tables.lend(&ShareHolder::of(&caller), 1)?;
        return whole(log, question, &params, format, place).await;
    }
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let (items, next) = match (&params.every, params.points) {
        (Some(_), Some(_)) => {
            let detail = "every makes buckets and points thins: ask for one of them";
            return Err(Problem::unreadable("every_or_points", detail));
        }
        (Some(every), None) => in_buckets(log, &question, every, &params, limit).await?,
        (None, Some(points)) => (thinned(log, &question, points).await?, None),
        (None, None) => {
            let after = place_of(log, &question, &params)?;
            let rows = page(log, &question, after.as_ref(), limit).await?;
            let next = cursor::next(log, &rows, limit, |last| {
                (last.measured_at.timestamp_micros(), last.vital, &*last.device_id)
            });
            (shown_of(&question, rows), next)
        }
    };
    if items.is_empty() {
        must_be_known(log, &question).await?;
    }
    let link = link_of(&question);
    let body = History { page: Page::new(items, next, &link, &echo(&params)) };
    let reply = Reply::tagged_with(&headers, &body, params.fields.as_deref())?;
    Ok(reply.header(header::VARY, "accept").next(body.page.links.next.as_ref()))
}

fn shown_of(question: &HistoryQuery, rows: Vec<Newest>) -> Vec<Item> {
    let reading = |row| Item::Reading(Box::new(to_wire::reading(&question.patient_id, row)));
    rows.into_iter().map(reading).collect()
}

async fn must_be_known(log: &Log, question: &HistoryQuery) -> Result<(), Problem> {
    match states::is_known(log, &question.tenant, &question.patient_id).await? {
        true => Ok(()),
        false => Err(Problem::not_found("patient")),
    }
}

/// Everything in one table.
async fn whole(
    log: &Log,
    question: HistoryQuery,
    params: &HistoryParams,
    format: TableFormat,
    held: Permit,
) -> Result<Reply<History>, Problem> {
    let of_json = [params.every.is_some(), params.points.is_some(), params.limit.is_some()];
    if of_json.contains(&true) || params.fields.is_some() {
        let detail = "a table has every reading of its time, and all of each: every, points, \
                      limit and fields are for JSON";
        return Err(Problem::unreadable("whole_table", detail));
    }
    let after = place_of(log, &question, params)?;
    let patient_id = question.patient_id.clone();
    let mut pages = Box::pin(bulk::readings(log.clone(), question.clone(), after).fuse());
    // Asked for before the answer begins: then it can still be another one.
    let first = pages.next().await.transpose()?;
    if first.is_none() {
        question.reach(question.range.from).check(log).await?;
        must_be_known(log, &question).await?;
    }
    let pages = futures_util::stream::iter(first.map(Ok)).chain(pages);
    Ok(Reply::as_other(table::answer(patient_id, pages, format, held)))
}

/// The one vital that buckets and charts are of.
fn one_vital(question: &HistoryQuery) -> Result<Vital, Problem> {
    match question.range.vitals[..] {
        [vital] => Ok(vital),
        _ => {
            let detail = "buckets and charts are of one vital: name it with vital=";
            Err(Problem::unreadable("vital_required", detail))
        }
    }
}

async fn thinned(log: &Log, question: &HistoryQuery, points: usize) -> Result<Vec<Item>, Problem> {
    if !POINTS.contains(&points) {
        let detail = format!("points must lie within {} and {}", POINTS.start(), POINTS.end());
        return Err(Problem::unreadable("invalid_points", detail));
    }
    let rows = downsample(log, question, one_vital(question)?, points).await?;
    Ok(shown_of(question, rows))
}

async fn in_buckets(
    log: &Log,
    question: &HistoryQuery,
    every: &str,
    params: &HistoryParams,
    limit: i64,
) -> Result<(Vec<Item>, Option<String>), Problem> {
    let seconds = humantime::parse_duration(every).map(|d| d.as_secs_f64()).unwrap_or(0.0);
    if !EVERY_SECONDS.contains(&seconds) {
        let detail = "every is a length of time from 1s to 1y, as 1m or 15m";
        return Err(Problem::unreadable("invalid_every", detail));
    }
    let vital = one_vital(question)?;
    let link = link_of(question);
    let place = |cursor| cursor::read::<i64>(log, cursor, &link);
    let from = match params.cursor.as_deref().map(place).transpose()? {
        Some(micros) => cursor::time(micros)?,
        None => question.range.from,
    };
    let rows = buckets(log, question, vital, from, seconds, limit + 1).await?;
    let full = rows.len() as i64 > limit;
    let next = full.then(|| rows.last()).flatten();
    let next = next.map(|bucket| cursor::write(log, &bucket.start.timestamp_micros()));
    let items = rows.iter().take(limit as usize).map(|bucket| {
        Item::Bucket(Bucket {
            start: bucket.start.into(),
            min: Number(bucket.min),
            max: Number(bucket.max),
            avg: Number(bucket.avg),
            count: bucket.count,
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

fn link_of(question: &HistoryQuery) -> String {
    format!("/api/v1/patients/{}/readings", question.patient_id)
}

fn place_of(
    log: &Log,
    question: &HistoryQuery,
    params: &HistoryParams,
) -> Result<Option<HistoryCursor>, Problem> {
    let link = link_of(question);
    params.cursor.as_deref().map(|cursor| place(log, cursor, &link)).transpose()
}

/// The place of a cursor of the list at `link`.
pub fn place(log: &Log, cursor: &str, link: &str) -> Result<HistoryCursor, Problem> {
    let (micros, vital, device_id): (i64, Vital, String) = cursor::read(log, cursor, link)?;
    let measured_at = cursor::time(micros)?;
    Ok(HistoryCursor { measured_at, vital, device_id })
}

/// The question again, for links, without its cursor.
fn echo(params: &HistoryParams) -> String {
    let time = |name: &str, time: Option<Time>| time.map(|t| format!("{name}={}", rfc3339(t.0)));
    [
        params.vital.as_deref().map(|vital| format!("vital={}", cursor::url_encode(vital))),
        time("from", params.from),
        time("to", params.to),
        params.every.as_deref().map(|every| format!("every={}", cursor::url_encode(every))),
        params.points.map(|points| format!("points={points}")),
        params.limit.map(|limit| format!("limit={limit}")),
        params.fields.as_deref().map(|fields| format!("fields={}", cursor::url_encode(fields))),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join("&")
}
