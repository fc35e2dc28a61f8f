//! `POST /readings`: what devices send.
//!
//! Guarantees that 201 and 207 come after the commit. A 503 may have stored some of
//! the batch: it is sent again as it was, and the log keeps each reading once.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::auth::Caller;
use super::extract::Body;
use super::problem::Problem;
use crate::clock::Clock;
use crate::ingest::{Ingest, ParseError, Parsed, Rejected, Stored, parse};

/// What the route stands on.
#[derive(Clone)]
pub struct Door {
    pub(super) ingest: Ingest,
    pub(super) clock: Clock,
}

/// Stores readings.
pub async fn store(
    State(door): State<Door>,
    caller: Caller,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    caller.may("readings:write")?;
    check_encoding(&headers)?;
    let Parsed { events, rejected } =
        parse(&body, &caller.tenant, caller.narrowing(), door.clock.now()).map_err(refuse)?;
    let stored =
        if events.is_empty() { Stored::default() } else { door.ingest.store(events).await? };
    metrics::counter!("vitals_readings_rejected_total").increment(rejected.len() as u64);
    Ok(answer(stored, rejected))
}

fn answer(Stored { stored, duplicates }: Stored, rejected: Vec<Rejected>) -> Response {
    let Some(first) = rejected.first() else {
        let body = json!({ "stored": stored, "duplicates": duplicates, "rejected": [] });
        return (StatusCode::CREATED, Json(body)).into_response();
    };
    if stored + duplicates > 0 {
        let body = json!({ "stored": stored, "duplicates": duplicates, "rejected": rejected });
        return (StatusCode::MULTI_STATUS, Json(body)).into_response();
    }
    if rejected.iter().all(|r| r.code == "outside_token") {
        return Problem::forbidden("outside_token", first.detail.clone()).into_response();
    }
    let detail = match rejected.len() {
        1 => first.detail.clone(),
        n => format!("none of {n} readings can be stored; the first: {}", first.detail),
    };
    Problem::invalid(first.code, &first.pointer, detail)
        .with("stored", json!(0))
        .with("duplicates", json!(0))
        .with("rejected", json!(rejected))
        .into_response()
}

fn refuse(error: ParseError) -> Problem {
    let detail = error.to_string();
    match error {
        ParseError::NotUtf8 { .. } => Problem::unreadable("not_utf8", detail),
        ParseError::NotJson(_) => Problem::unreadable("unreadable_json", detail),
        ParseError::NeitherObjectNorArray => Problem::invalid("not_readings", "", detail),
        ParseError::Empty => Problem::invalid("empty_batch", "", detail),
        ParseError::TooMany(_) => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "batch_too_large", detail)
        }
    }
}

/// JSON as it is. An encoding that is not undone would only look like broken JSON.
fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported =
        |code, detail: &str| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code, detail);
    if headers.get(header::CONTENT_ENCODING).is_some_and(|e| e != "identity") {
        return Err(unsupported(
            "encoding_not_supported",
            "send the body without Content-Encoding",
        ));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if kind.is_some_and(|kind| kind.starts_with("application/x-ndjson")) {
        return Err(unsupported("ndjson_not_supported", "send an array as application/json"));
    }
    Ok(())
}
