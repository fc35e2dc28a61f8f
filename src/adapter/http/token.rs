//! Where a token or an API key stands in a request, and how it is said that it does not do.
//!
//! Guarantees that a request with two tokens is judged by none. Whether a token is good,
//! and for what, is [`crate::auth`]'s to say.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};

use super::problem::Problem;
use crate::auth::api_key::PREFIX;
use crate::auth::{Caller, Denied, Revocations};
use crate::clock::Clock;
use crate::log::Log;

/// What is needed to make keys, and to take tokens away.
#[derive(Clone)]
pub struct TokenState {
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) revocations: Arc<Revocations>,
}

/// Where an API key may stand, for what cannot say `Bearer`.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Whether a request shows a token or a key, good or not.
pub fn shows_token(headers: &HeaderMap) -> bool {
    headers.contains_key(header::AUTHORIZATION) || headers.contains_key(&API_KEY)
}

/// The token or API key of a request.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let keys = headers.get_all(&API_KEY);
    if headers.get_all(header::AUTHORIZATION).iter().chain(&keys).nth(1).is_some() {
        // A proxy before us may have judged the other one.
        let detail = "the request has more than one Authorization or X-API-Key header: send one";
        return Err(Problem::unreadable("ambiguous_authorization", detail));
    }
    if let Some(key) = headers.get(&API_KEY) {
        let key = key.to_str().ok().map(str::trim).filter(|key| key.starts_with(PREFIX));
        return key.ok_or_else(|| {
            unauthorised(format!("send the whole API key as X-API-Key: {PREFIX}…"))
        });
    }
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        })
        .ok_or_else(|| unauthorised("send the token as: Authorization: Bearer TOKEN".to_owned()))
}

fn unauthorised(detail: String) -> Problem {
    Denied::Unauthorised(detail).into()
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Problem {
        let (code, detail) = (denied.code(), denied.to_string());
        match denied {
            Denied::Unauthorised(_) => Problem::new(StatusCode::UNAUTHORIZED, code, detail)
                .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            Denied::ScopeMissing(_) | Denied::OutsideToken(_) => Problem::forbidden(code, detail),
            Denied::KeysUnavailable => Problem::unavailable(code, detail),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Caller, Problem> {
        // Absent only where a route stands outside the pipeline.
        let caller: Option<Arc<Caller>> = parts.extensions.remove();
        caller
            .map(Arc::unwrap_or_clone)
            .ok_or_else(|| unauthorised("no token was checked".to_owned()))
    }
}
