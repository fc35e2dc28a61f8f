//! `GET /audit`: who has read or changed what of whom, newest first.
//!
//! Guarantees that a tenant sees its own alone, and that asking is an access as well. As
//! NDJSON it is everything that fits the question, a line each, in constant memory; one that
//! could not be finished breaks off.

use std::io;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::{Stream, StreamExt};
use serde::Deserialize;

use super::cursor;
use super::extract::Params;
use super::history::format::HistoryFormat;
use super::patients::{QueryState, limit};
use super::problem::Problem;
use super::reply::Reply;
use super::to_wire::unreadable;
use crate::audit::{AccessData, Action, Means};
use crate::auth::{Caller, Scope, is_subject};
use crate::clock::rfc3339;
use crate::event::{ACCESSES_OF, ID_RULE, is_fhir_id};
use crate::limits::shares::{Permit, ShareHolder};
use crate::query::accesses::{self, AccessFilter, StoredAccess};
use crate::wire::TableFormat;
use crate::wire::{Access, AccessAction, AccessBy, Page, Time};

const LINK: &str = "/api/v1/audit";
/// Accesses of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

#[derive(Deserialize)]
pub struct AuditParams {
    patient: Option<String>,
    subject: Option<String>,
    from: Option<Time>,
    to: Option<Time>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// A page of accesses, or all of them as NDJSON.
pub async fn list(
    State(questions): State<QueryState>,
    caller: Caller,
    Params(params): Params<AuditParams>,
    headers: HeaderMap,
) -> Result<Reply<Page<Access>>, Problem> {
    caller.may_administer(Scope::AuditRead)?;
    let is_whole = match HistoryFormat::wanted(&headers)? {
        HistoryFormat::Page => false,
        HistoryFormat::Table(TableFormat::Ndjson) => true,
        HistoryFormat::Table(TableFormat::Csv | TableFormat::Parquet) => {
            let detail = "the audit comes as application/json or application/x-ndjson";
            let status = StatusCode::NOT_ACCEPTABLE;
            return Err(Problem::new(status, "not_acceptable", detail));
        }
    };
    let log = &questions.log;
    let mut filter = filter(&params)?;
    let place = |cursor| cursor::read::<(i64, i64)>(log, cursor, LINK);
    if let Some((micros, position)) = params.cursor.as_deref().map(place).transpose()? {
        filter.after = Some((cursor::time(micros)?, position));
    }
    if is_whole {
        let held = questions.tables.lend(&ShareHolder::of(&caller), 1)?;
        let pages = accesses::pages(log.clone(), caller.tenant.to_string(), filter);
        return Ok(Reply::as_other(lines(Box::pin(pages), held)));
    }
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let rows = accesses::page(log, &caller.tenant, &filter, limit).await?;
    let next = cursor::next(log, &rows, limit, |last| {
        (last.occurred_at.timestamp_micros(), last.position)
    });
    let items = rows.into_iter().map(shown).collect::<Result<Vec<_>, Problem>>()?;
    let page = Page::new(items, next, LINK, &echo(&params));
    let reply = Reply::tagged(&headers, &page)?.header(header::VARY, "accept");
    Ok(reply.next(page.links.next.as_ref()))
}

fn filter(params: &AuditParams) -> Result<AccessFilter, Problem> {
    let invalid = |detail: String| Problem::unreadable("invalid_id", detail);
    if params.patient.as_ref().is_some_and(|patient| !is_fhir_id(patient)) {
        return Err(invalid(format!("patient {ID_RULE}")));
    }
    if params.subject.as_ref().is_some_and(|subject| !is_subject(subject)) {
        return Err(invalid("subject is 1 to 255 printable characters".to_owned()));
    }
    Ok(AccessFilter {
        patient_id: params.patient.clone(),
        subject: params.subject.clone(),
        from: params.from.map(|time| time.0),
        to: params.to.map(|time| time.0),
        after: None,
    })
}

/// The question again, for links, without its cursor.
fn echo(params: &AuditParams) -> String {
    let text = |name: &str, text: &Option<String>| {
        text.as_ref().map(|text| format!("{name}={}", cursor::url_encode(text)))
    };
    let time = |name: &str, time: Option<Time>| time.map(|t| format!("{name}={}", rfc3339(t.0)));
    [
        text("patient", &params.patient),
        text("subject", &params.subject),
        time("from", params.from),
        time("to", params.to),
        params.limit.map(|limit| format!("limit={limit}")),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join("&")
}

fn shown(stored: StoredAccess) -> Result<Access, Problem> {
    let data: AccessData =
        serde_json::from_str(&stored.data).map_err(|error| unreadable("an access", error))?;
    let action = serde_json::from_value(data.action.into())
        .map_err(|error| unreadable("what an access was", error))?;
    let patient = stored.patient_id.strip_prefix(ACCESSES_OF).unwrap_or_default();
    Ok(Access {
        id: format!("{}-{}", stored.shard, stored.position),
        at: stored.occurred_at.into(),
        until: data.until.map(Time::from),
        count: data.count.unwrap_or(1),
        recorded_at: stored.recorded_at.into(),
        action: match action {
            Action::Read => AccessAction::Read,
            Action::Change => AccessAction::Change,
            Action::Readings => AccessAction::Readings,
            Action::SignIn => AccessAction::SignIn,
            Action::SignOut => AccessAction::SignOut,
            Action::PassedOver => AccessAction::PassedOver,
        },
        subject: stored.source_id,
        by: data.by.map(|by| match by {
            Means::Token => AccessBy::Token,
            Means::Certificate => AccessBy::Certificate,
            Means::Link => AccessBy::Link,
            Means::Session => AccessBy::Session,
            Means::Ticket => AccessBy::Ticket,
            Means::Key => AccessBy::Key,
        }),
        token_id: data.token_id,
        address: data.address,
        method: data.method,
        route: data.route,
        status: data.status,
        code: data.code,
        patient_id: (!patient.is_empty()).then(|| patient.to_owned().into()),
        device_id: data.device_id,
        ward: data.ward,
        resource_id: data.id,
    })
}

/// The answer; `place` is held to its end.
fn lines(
    pages: impl Stream<Item = Result<Vec<StoredAccess>, sqlx::Error>> + Send + 'static,
    place: Permit,
) -> Response {
    let lines = pages.map(move |page| {
        let _held = &place;
        let page = page.map_err(|error| broken(&error))?;
        let mut text = Vec::new();
        for stored in page {
            let access = shown(stored).map_err(|_| io::Error::other("an access is unreadable"))?;
            serde_json::to_writer(&mut text, &access)?;
            text.push(b'\n');
        }
        Ok::<_, io::Error>(text)
    });
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static(TableFormat::Ndjson.media_type());
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// The answer has begun: all that can be done is to break it off.
fn broken(error: &sqlx::Error) -> io::Error {
    tracing::error!(%error, "the audit was broken off because the log cannot be read");
    io::Error::other("the log cannot be read now")
}
