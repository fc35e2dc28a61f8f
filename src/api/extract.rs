//! Requests, taken apart: every failure is a problem document with its place.
//!
//! Guarantees bounded memory for bodies. Does not look into them, and does not read
//! them: [`Incoming`] does.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use super::body::{BODY_BYTES_MAX, Incoming};
use super::problem::Problem;
use crate::event::is_fhir_id;

/// A whole body within the limit, whatever it came encoded in.
pub struct Body(pub Bytes);

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body, Problem> {
        let body = Incoming::from_request(request, state).await?.whole(BODY_BYTES_MAX).await?;
        Ok(Body(body.bytes))
    }
}

/// A JSON body.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Json<T>, Problem> {
        let Body(body) = Body::from_request(request, state).await?;
        json(&body).map(Json)
    }
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            Problem::invalid("invalid_body", "", error.to_string())
        }
        _ => Problem::unreadable("unreadable_json", error.to_string()),
    })
}

/// A JSON body that may be left out.
pub struct Optional<T>(pub T);

impl<T: DeserializeOwned + Default, S: Sync> FromRequest<S> for Optional<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Optional<T>, Problem> {
        let Body(body) = Body::from_request(request, state).await?;
        if body.is_empty() { Ok(Optional(T::default())) } else { json(&body).map(Optional) }
    }
}

/// The query string's parameters. Those that the route does not take were refused before:
/// [`super::parameters`].
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params<T>, Problem> {
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
