//! `/alerts/{id}/ack`: somebody has seen it, by a token or by the link that came with the
//! alert.
//!
//! Guarantees that only a `POST` acknowledges: `GET` is a page with one button, and what
//! opens links to look for viruses changes nothing. The first acknowledgement counts;
//! another one is answered with the first. Who came by a link says who they are, if they
//! want to, and is shown no more of the patient than the message that the link came with.
//! A form is answered with the page, and JSON with JSON.

mod page;

use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use axum::{Extension, http::StatusCode};
use chrono::{DateTime, Utc};
use serde_json::Value;

use self::page::BY_CHARS_MAX;
use self::page::Bed;
use super::accessed::About;
use super::alerts::find;
use super::extract::{Body, Id, Json, json};
use super::patients::QueryState;
use super::problem::{Problem, ProblemText};
use super::reply::Reply;
use super::to_wire;
use crate::auth::{Caller, Scope};
use crate::delivery::ack::Shown;
use crate::query::alerts::{Alert, AlertState};
use crate::query::records;
use crate::record::answer::{self, Answer, Via};
use crate::wire::{self, Acknowledged, AcknowledgementRequest};

const NOTE_CHARS_MAX: usize = 1_000;

/// What somebody says, and whether a form said it.
pub struct AnswerForm {
    words: AcknowledgementRequest,
    by_form: bool,
}

impl<S: Sync> FromRequest<S> for AnswerForm {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<AnswerForm, Problem> {
        let is_form = is_form(request.headers());
        let Body(body) = Body::from_request(request, state).await?;
        // What curl sends unless it is told otherwise calls itself a form as well.
        if !is_form || body.trim_ascii_start().starts_with(b"{") {
            return Ok(AnswerForm { words: json(&body)?, by_form: false });
        }
        let words: AcknowledgementRequest = serde_urlencoded::from_bytes(&body)
            .map_err(|error| Problem::invalid("invalid_body", "", error.to_string()))?;
        // A field that was left empty says nothing.
        let said =
            |text: Option<String>| text.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        Ok(AnswerForm {
            words: AcknowledgementRequest { by: said(words.by), note: said(words.note) },
            by_form: true,
        })
    }
}

/// `POST /alerts/{id}/ack`
pub async fn acknowledge(
    State(questions): State<QueryState>,
    caller: Caller,
    shown: Option<Extension<Shown>>,
    Id(id): Id,
    AnswerForm { words, by_form }: AnswerForm,
) -> Result<Reply<Acknowledged>, Problem> {
    caller.may(Scope::AlertsAck)?;
    let alert = find(&questions, &caller, Scope::AlertsAck, id).await?;
    let answer = if caller.linked { by_link(&words, by_form)? } else { by_token(&words, &caller)? };
    if alert.acknowledged.is_none() {
        let (log, now): (_, DateTime<Utc>) = (&questions.log, questions.clock.now());
        answer::acknowledge(log, &caller.tenant, &alert, &answer, now).await?;
    }
    let alert = find(&questions, &caller, Scope::AlertsAck, id).await?;
    if by_form {
        return looked_at(&questions, &caller, shown, &alert).await.map(Reply::as_other);
    }
    let wire::Alert { id, state, acknowledged, .. } = to_wire::alert(&alert)?;
    let reply = Reply::ok(&match caller.linked {
        true => Acknowledged::ByLink { id, state, acknowledged },
        false => Acknowledged::ByToken(Box::new(to_wire::alert(&alert)?)),
    })?;
    Ok(reply.about(&alert.patient_id))
}

/// `GET /alerts/{id}/ack`: the page.
pub async fn show(
    State(questions): State<QueryState>,
    caller: Caller,
    shown: Option<Extension<Shown>>,
    Id(id): Id,
) -> Result<Response, Problem> {
    caller.may(Scope::AlertsAck)?;
    let alert = find(&questions, &caller, Scope::AlertsAck, id).await?;
    looked_at(&questions, &caller, shown, &alert).await
}

/// `POST /alerts/{id}/clear`: over, says a person. The rules clear it; one that is over
/// already stays as it is.
pub async fn clear(
    State(questions): State<QueryState>,
    caller: Caller,
    Id(id): Id,
    Json(words): Json<AcknowledgementRequest>,
) -> Result<Reply<wire::Alert>, Problem> {
    caller.may(Scope::AlertsAck)?;
    let answer = by_token(&words, &caller)?;
    let alert = find(&questions, &caller, Scope::AlertsAck, id).await?;
    if alert.state == AlertState::Active {
        let (log, now): (_, DateTime<Utc>) = (&questions.log, questions.clock.now());
        answer::request_clear(log, &caller.tenant, &alert, &answer, now).await?;
    }
    let alert = find(&questions, &caller, Scope::AlertsAck, id).await?;
    Ok(Reply::ok(&to_wire::alert(&alert)?)?.about(&alert.patient_id))
}

/// The name that is given is beside the token's, never in its place.
fn by_token<'a>(
    words: &'a AcknowledgementRequest,
    caller: &'a Caller,
) -> Result<Answer<'a>, Problem> {
    let by = words.by.as_deref().unwrap_or(&caller.subject);
    check_text("/by", by, 1, BY_CHARS_MAX)?;
    answer(words, Some(by), Some(&caller.subject), Via::Token)
}

/// Nobody knows who it is. A program says so in words; a nurse with both hands full need not.
fn by_link(words: &AcknowledgementRequest, by_form: bool) -> Result<Answer<'_>, Problem> {
    match words.by.as_deref() {
        None if by_form => {}
        by => check_text("/by", by.unwrap_or_default(), 1, BY_CHARS_MAX)?,
    }
    answer(words, words.by.as_deref(), None, Via::Link)
}

fn answer<'a>(
    words: &'a AcknowledgementRequest,
    by: Option<&'a str>,
    subject: Option<&'a str>,
    via: Via,
) -> Result<Answer<'a>, Problem> {
    check_text("/note", words.note.as_deref().unwrap_or_default(), 0, NOTE_CHARS_MAX)?;
    Ok(Answer { by, subject, via, note: words.note.as_deref() })
}

fn check_text(pointer: &str, text: &str, min: usize, max: usize) -> Result<(), Problem> {
    if (min..=max).contains(&text.chars().count()) && !text.contains('\0') {
        return Ok(());
    }
    let detail = format!("{} is a text of {min} to {max} characters", &pointer[1..]);
    Err(Problem::invalid("invalid_text", pointer, detail))
}

async fn looked_at(
    questions: &QueryState,
    caller: &Caller,
    shown: Option<Extension<Shown>>,
    alert: &Alert,
) -> Result<Response, Problem> {
    let bed = match shown {
        Some(Extension(Shown::AlertOnly)) => None,
        _ => Some(bed(questions, &caller.tenant, &alert.patient_id).await?),
    };
    let acknowledged = to_wire::acknowledged(alert)?;
    let page = page::alert(alert, acknowledged.as_ref(), bed.as_ref(), questions.clock.now());
    let mut answer = page::answer(StatusCode::OK, page);
    answer.extensions_mut().insert(About(alert.patient_id.clone()));
    Ok(answer)
}

/// Where to go.
async fn bed(questions: &QueryState, tenant: &str, patient_id: &str) -> Result<Bed, Problem> {
    let record = records::get(&questions.log, tenant, patient_id).await?.unwrap_or_default();
    let text = |key: &str| record.fields.get(key).and_then(Value::as_str).map(str::to_owned);
    Ok(Bed { ward: text("ward"), bed: text("bed") })
}

/// Tells a browser what went wrong as a page, with the same status.
pub async fn told_as_a_page(request: Request, next: Next) -> Response {
    let is_browser = accepts_html(request.headers());
    let response = next.run(request).await;
    match response.extensions().get::<ProblemText>() {
        Some(told) if is_browser => page::answer(response.status(), page::told(told)),
        _ => response,
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

fn accepts_html(headers: &HeaderMap) -> bool {
    let accepts =
        |value: &HeaderValue| value.to_str().is_ok_and(|kinds| kinds.contains("text/html"));
    headers.get_all(header::ACCEPT).iter().any(accepts)
}
