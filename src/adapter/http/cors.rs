//! Which other sites' pages may call the API: none, unless the operator names them.
//!
//! Guarantees that a browser lets a page of a named origin, and of no other, send requests
//! with a token and read what they are answered, also refusals; and that what a browser asks
//! before it sends anything is answered without a token, for it has none to show then.
//! Does not keep anybody else out: that is what tokens do. A session is for our own
//! page, and so credentials are not allowed.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// How long a browser may remember what it was told before sending.
const REMEMBERED_SECONDS: HeaderValue = HeaderValue::from_static("600");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
/// What a page may send beside what every page may.
const SENT: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, content-encoding, if-none-match, last-event-id, x-api-key",
);
/// What a page may read beside what every page may.
const READ: HeaderValue = HeaderValue::from_static(
    "ETag, Location, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, RateLimit-Policy, \
     Retry-After, vitals-behind",
);
const API: &str = "/api/v1/";

/// The origins whose pages may call; cheap to clone.
#[derive(Clone)]
pub struct Origins(Arc<[HeaderValue]>);

impl Origins {
    /// `None` when there is none. What is no header's value is no origin.
    pub fn new(origins: &[String]) -> Option<Origins> {
        let origins: Vec<HeaderValue> =
            origins.iter().filter_map(|origin| origin.parse().ok()).collect();
        (!origins.is_empty()).then(|| Origins(origins.into()))
    }

    /// The answer, and with it what the browser has to know.
    pub async fn answer<E>(
        self,
        request: Request,
        answer: impl AsyncFnOnce(Request) -> Result<Response, E>,
    ) -> Result<Response, E> {
        if !request.uri().path().starts_with(API) {
            return answer(request).await;
        }
        let origin = request.headers().get(header::ORIGIN);
        let origin = origin.filter(|origin| self.0.contains(origin)).cloned();
        let asks_first = request.method() == Method::OPTIONS
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let mut response = match &origin {
            Some(_) if asks_first => leave(),
            _ => answer(request).await?,
        };
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, READ);
        }
        Ok(response)
    }
}

/// To send what was asked for.
fn leave() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, SENT),
        (header::ACCESS_CONTROL_MAX_AGE, REMEMBERED_SECONDS),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}
