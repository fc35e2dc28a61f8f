//! Requests, taken apart: every failure is a problem document with its place.
//!
//! Guarantees bounded memory for bodies. Does not look into them.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::{StatusCode, header, request::Parts};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use tokio::time::Instant;

use super::problem::Problem;
use crate::event::is_fhir_id;

/// The largest body that is kept.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Room made before anything has come: an announcement is not yet a body.
const PART_BYTES: usize = 64 * 1024;
/// How long a body that is too large is read and thrown away, so that its sender
/// gets the answer instead of a broken connection.
const DISCARD_MS_MAX: u64 = 20_000;
/// The longest wait for the next part of a body.
const BODY_STALL_MS_MAX: u64 = 15_000;

/// A whole body within the limit.
pub struct Body(pub Bytes);

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Body, Problem> {
        let announced = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let waits_for_leave = request.headers().contains_key(header::EXPECT);
        let mut stream = request.into_body().into_data_stream();
        if announced.is_some_and(|bytes| bytes > BODY_BYTES_MAX) {
            if !waits_for_leave {
                discard(&mut stream).await;
            }
            return Err(too_large());
        }
        let mut body = Vec::with_capacity(announced.unwrap_or(0).min(PART_BYTES));
        loop {
            let stall = Duration::from_millis(BODY_STALL_MS_MAX);
            let part = tokio::time::timeout(stall, stream.next()).await.map_err(|_| {
                Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive")
            })?;
            let Some(part) = part else { break };
            let part = part.map_err(|_| {
                Problem::unreadable("body_broken_off", "the body ended before it was complete")
            })?;
            if body.len() + part.len() > BODY_BYTES_MAX {
                discard(&mut stream).await;
                return Err(too_large());
            }
            body.extend_from_slice(&part);
        }
        Ok(Body(body.into()))
    }
}

async fn discard(stream: &mut axum::body::BodyDataStream) {
    let until = Instant::now() + Duration::from_millis(DISCARD_MS_MAX);
    while let Ok(Some(Ok(_))) = tokio::time::timeout_at(until, stream.next()).await {}
}

fn too_large() -> Problem {
    let detail = format!("the body is larger than {BODY_BYTES_MAX} bytes: split it");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

/// A JSON body.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Json<T>, Problem> {
        let Body(body) = Body::from_request(request, state).await?;
        serde_json::from_slice(&body).map(Json).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => {
                Problem::invalid("invalid_body", "", error.to_string())
            }
            _ => Problem::unreadable("unreadable_json", error.to_string()),
        })
    }
}

/// The query string's parameters.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params<T>, Problem> {
        // PostgreSQL's text knows no NUL, and nothing of ours has one.
        if parts.uri.query().is_some_and(|query| query.contains("%00")) {
            return Err(Problem::unreadable("invalid_query", "a parameter holds a NUL character"));
        }
        let Query(params) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::unreadable("invalid_query", error.body_text()))?;
        Ok(Params(params))
    }
}

/// A time of a query: RFC 3339 with a zone, and so a year of four digits.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub DateTime<Utc>);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
        let text = String::deserialize(from)?;
        let time = DateTime::parse_from_rfc3339(&text).map_err(|_| {
            D::Error::custom(format!(
                "\"{text}\" is no RFC 3339 time with a zone: write it as 2025-10-20T10:20:00Z, \
                 and a + in it as %2B"
            ))
        })?;
        Ok(Time(time.to_utc()))
    }
}

/// A patient's id from the path.
pub struct PatientId(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PatientId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<PatientId, Problem> {
        #[derive(serde::Deserialize)]
        struct Segments {
            patient_id: String,
        }
        let Path(segments): Path<Segments> = Path::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::unreadable("invalid_path", error.body_text()))?;
        if is_fhir_id(&segments.patient_id) {
            Ok(PatientId(segments.patient_id))
        } else {
            Err(Problem::invalid(
                "invalid_id",
                "",
                "a patient's id must match [A-Za-z0-9\\-.]{1,64}",
            ))
        }
    }
}

/// The `{id}` of the path.
pub struct Id(pub uuid::Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Id, Problem> {
        let path: Result<Path<uuid::Uuid>, _> = Path::from_request_parts(parts, state).await;
        // What is no id of ours is the id of nothing.
        path.map(|Path(id)| Id(id)).map_err(|_| Problem::not_found("thing"))
    }
}
