//! `/exports` and `/jobs/{id}/result`: readings as one table, written as a job.
//!
//! Guarantees that what cannot be done is refused before it is a job; and that the same bytes
//! are handed out to everybody who may read them, whole or in ranges, under a strong ETag, in
//! bounded memory. A token for one device or patient gets none: its history comes as a table.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::extract::{Id, Json};
use super::problem::Problem;
use super::range::Wanted;
use super::reply::Reply;
use super::{jobs, to_wire};
use crate::auth::{Caller, Scope};
use crate::event::{ID_RULE, is_fhir_id};
use crate::export::{PATIENTS_NAMED_MAX, RECIPIENTS_MAX, StoredExports, recipients};
use crate::jobs::{Job, JobKind, JobRequest, Jobs};
use crate::limits::shares::{Share, ShareHolder};
use crate::wire::{ExportResult, JobStarted, NewExport};

/// Of what nobody but its recipients can tell the kind.
const SEALED: &str = "application/octet-stream";

/// What these routes stand on.
#[derive(Clone)]
pub struct ExportsState {
    pub(super) jobs: Jobs,
    pub(super) stored: StoredExports,
    pub(super) tables: Share,
}

/// `POST /exports`: 202, and a job.
pub async fn start(
    State(exports): State<ExportsState>,
    caller: Caller,
    Json(asked): Json<NewExport>,
) -> Result<Reply<JobStarted>, Problem> {
    caller.may_administer(Scope::VitalsRead)?;
    judge(&asked)?;
    if !exports.stored.has_room(&caller.tenant).await? {
        let detail = "your exports, or all of them, have as many bytes as may be kept: DELETE the \
                      jobs whose bytes you have, or wait until they expire";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_export_bytes", detail);
        return Err(problem.header(header::RETRY_AFTER, HeaderValue::from_static("60")));
    }
    let argument = serde_json::to_value(&asked);
    let argument = argument.map_err(|error| to_wire::unreadable("what was asked", error))?;
    let (tenant, by) = (&*caller.tenant, &*caller.subject);
    let wanted = JobRequest { tenant, kind: JobKind::Export, argument: &argument, by };
    let id = exports.jobs.submit(wanted).await?;
    let place = format!("/api/v1/jobs/{id}");
    let body = JobStarted { id, links: [("self", place.clone())].into() };
    Ok(Reply::new(StatusCode::ACCEPTED, &body)?.at(&place))
}

fn judge(asked: &NewExport) -> Result<(), Problem> {
    if let (Some(from), Some(to)) = (asked.from, asked.to)
        && from.0 >= to.0
    {
        return Err(Problem::invalid("invalid_range", "/to", "to must be later than from"));
    }
    let count = |place: &str, count: Option<usize>, most: usize| match count {
        Some(count) if !(1..=most).contains(&count) => {
            let detail = format!("1 to {most} can be named here: leave it out for all");
            Err(Problem::invalid("invalid_body", place, detail))
        }
        _ => Ok(()),
    };
    count("/patients", asked.patients.as_ref().map(Vec::len), PATIENTS_NAMED_MAX)?;
    count("/vitals", asked.vitals.as_ref().map(Vec::len), PATIENTS_NAMED_MAX)?;
    count("/recipients", asked.recipients.as_ref().map(Vec::len), RECIPIENTS_MAX)?;
    let mut patients = asked.patients.iter().flatten();
    if let Some(n) = patients.position(|id| !is_fhir_id(id)) {
        let detail = format!("a patient's id {ID_RULE}");
        return Err(Problem::invalid("invalid_id", &format!("/patients/{n}"), detail));
    }
    if let Err(bad) = recipients(asked.recipients.as_deref().unwrap_or_default()) {
        let place = format!("/recipients/{}", bad.index);
        return Err(Problem::invalid("invalid_recipient", &place, bad.to_string()));
    }
    Ok(())
}

/// `GET /jobs/{id}/result`: the bytes of an export.
pub async fn result(
    State(exports): State<ExportsState>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_administer(Scope::VitalsRead)?;
    let job = jobs::find(&exports.jobs, &caller, id).await?;
    let export = written(&job)?;
    if !exports.stored.is_kept(&caller.tenant, id).await? {
        let detail = "the bytes of this export are kept no longer: ask for another one";
        return Err(Problem::new(StatusCode::GONE, "export_expired", detail));
    }
    let tag = format!("\"{}\"", export.sha256);
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let known = known.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    let mut known = known.map(|tag| tag.trim().trim_start_matches("W/"));
    let (status, (first, last)) = match Wanted::of(&headers, &tag, export.bytes) {
        _ if known.any(|known| known == "*" || known == tag) => (StatusCode::NOT_MODIFIED, (0, -1)),
        Wanted::Whole => (StatusCode::OK, (0, export.bytes - 1)),
        Wanted::Part(first, last) => (StatusCode::PARTIAL_CONTENT, (first, last)),
        Wanted::Nothing => {
            let detail = format!("it has {} bytes, and none of these", export.bytes);
            let problem =
                Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", detail);
            let all = text(&format!("bytes */{}", export.bytes))?;
            return Err(problem.header(header::CONTENT_RANGE, all));
        }
    };
    let held = exports.tables.lend(&ShareHolder::of(&caller), 1)?;
    let bytes = exports.stored.bytes(caller.tenant.to_string(), id, first..last + 1);
    let bytes = futures_util::StreamExt::inspect(bytes, move |_| {
        let _held = &held;
    });
    let mut response = match status {
        StatusCode::NOT_MODIFIED => status.into_response(),
        _ => (status, Body::from_stream(bytes)).into_response(),
    };
    let told = response.headers_mut();
    told.insert(header::ETAG, text(&tag)?);
    told.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    told.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if status != StatusCode::NOT_MODIFIED {
        told.insert(header::CONTENT_LENGTH, (last + 1 - first).into());
        told.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type(&export)));
        told.insert(header::CONTENT_DISPOSITION, text(&disposition(&job, &export))?);
    }
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {first}-{last}/{}", export.bytes);
        told.insert(header::CONTENT_RANGE, text(&range)?);
    }
    Ok(response)
}

/// What an export came to, if that is what a job is and it is done.
fn written(job: &Job) -> Result<ExportResult, Problem> {
    match &job.result {
        Some(result) if job.kind == JobKind::Export => to_wire::stored("an export", result),
        _ => Err(Problem::not_found("result")),
    }
}

fn media_type(export: &ExportResult) -> &'static str {
    if export.encrypted { SEALED } else { export.format.media_type() }
}

fn disposition(job: &Job, export: &ExportResult) -> String {
    let sealed = if export.encrypted { ".age" } else { "" };
    format!("attachment; filename=\"vitals-{}.{}{sealed}\"", job.id, export.format.extension())
}

fn text(text: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(text).map_err(|_| {
        let detail = "the answer could not be written: this is a fault of the server";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    })
}
