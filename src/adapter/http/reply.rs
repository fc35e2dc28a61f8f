//! Typed answers.
//!
//! Guarantees that what a handler answers is of the type that it names: the API's
//! description takes its schema from there (`super::openapi::answers`). ETags are of the
//! answer's own bytes. Does not decide what is answered.

use std::marker::PhantomData;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::accessed::About;
use super::fields;
use super::problem::Problem;

/// An answer of this shape.
pub struct Reply<T> {
    response: Response,
    shape: PhantomData<fn() -> T>,
}

impl<T: Serialize> Reply<T> {
    /// 200.
    pub fn ok(body: &T) -> Result<Reply<T>, Problem> {
        Reply::new(StatusCode::OK, body)
    }

    /// Of this status.
    pub fn new(status: StatusCode, body: &T) -> Result<Reply<T>, Problem> {
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Reply::as_other((status, [kind], written(body)?).into_response()))
    }

    /// 200 with an ETag, or 304 when the caller has it already.
    ///
    /// The tag is of all that the answer says, also what time alone changes. Who keeps an
    /// old answer must not be told that a score still holds whose values have become stale
    /// since, or that a value is seconds old. Weak, because the same may be written in other
    /// bytes.
    pub fn tagged(request: &HeaderMap, body: &T) -> Result<Reply<T>, Problem> {
        let bytes = written(body)?;
        let tag = format!("W/\"{}\"", URL_SAFE_NO_PAD.encode(&Sha256::digest(&bytes)[..12]));
        let known = request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|t| t.trim() == "*" || t.trim() == tag));
        let mut response = match known {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => {
                let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                ([kind], bytes).into_response()
            }
        };
        let headers = response.headers_mut();
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        Ok(Reply::as_other(response))
    }
}

impl<T: Serialize + JsonSchema> Reply<T> {
    /// The same with only these fields of the answer, if any are named.
    pub fn tagged_with(
        request: &HeaderMap,
        body: &T,
        fields: Option<&str>,
    ) -> Result<Reply<T>, Problem> {
        match fields {
            None => Reply::tagged(request, body),
            Some(fields) => {
                let Reply { response, .. } = Reply::tagged(request, &fields::only(body, fields)?)?;
                Ok(Reply::as_other(response))
            }
        }
    }
}

impl<T> Reply<T> {
    /// The same in another media type.
    pub fn as_other(response: Response) -> Reply<T> {
        Reply { response, shape: PhantomData }
    }

    /// Says where a list goes on (RFC 8288), for who follows headers.
    pub fn next(self, link: Option<&String>) -> Reply<T> {
        match link {
            Some(link) => self.header(header::LINK, &format!("<{link}>; rel=\"next\"")),
            None => self,
        }
    }

    /// Is about a patient whom the request does not name, for whoever records it.
    pub fn about(mut self, patient_id: &str) -> Reply<T> {
        self.response.extensions_mut().insert(About(patient_id.to_owned()));
        self
    }

    /// Says where what was made is found.
    pub fn at(self, location: &str) -> Reply<T> {
        self.header(header::LOCATION, location)
    }

    /// Says whether an answer from the projections is older than the log.
    pub fn fresh(self, fresh: bool) -> Reply<T> {
        match fresh {
            true => self,
            false => self.header(header::HeaderName::from_static("vitals-behind"), "true"),
        }
    }

    /// With a header more.
    pub fn header(mut self, name: header::HeaderName, value: &str) -> Reply<T> {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.response.headers_mut().insert(name, value);
        }
        self
    }
}

impl<T> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        self.response
    }
}

fn written(body: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(body).map_err(|error| {
        tracing::error!(%error, "an answer could not be written");
        let detail = "the answer could not be written: this is a fault of the server";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    })
}
