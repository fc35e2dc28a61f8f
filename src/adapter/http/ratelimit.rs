//! Where a caller stands, in the headers of every answer.
//!
//! Guarantees that every answer to a good token says so. The headers are those of
//! draft-ietf-httpapi-ratelimit-headers-06, the last one that has them as four. They tell
//! of the limit of which most is used. `RateLimit-Reset` is when the whole limit is back,
//! but beside `Retry-After` the same moment as that.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

use super::problem::Problem;
use crate::limits::shares::UsedUp;
use crate::limits::{Again, Asked, Limited, Limits};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Says with a request's answer where its subject stands, and holds it back if that is
/// near a limit.
pub async fn told(limits: &Limits, asked: Asked<'_>, mut response: Response) -> Response {
    // Refused because of its readings: that is what it was told, and at once.
    if is_of_known(response.headers()) {
        return response;
    }
    let state = limits.state(&asked);
    let headers = response.headers_mut();
    headers.insert(LIMIT, HeaderValue::from(state.per_minute));
    headers.insert(REMAINING, HeaderValue::from(state.remaining()));
    headers.insert(RESET, HeaderValue::from(state.reset_seconds()));
    headers.insert(POLICY, policy(asked.policy.clone()));
    let slowed = state.slowed();
    if !slowed.is_zero() {
        tokio::time::sleep(slowed).await;
    }
    response
}

/// Whether an answer is one to a good token.
pub fn is_of_known(headers: &HeaderMap) -> bool {
    headers.contains_key(LIMIT)
}

/// Digits and a few words: always a value.
fn policy(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static(""))
}

impl From<Limited> for Problem {
    fn from(limited: Limited) -> Problem {
        let code = limited.code();
        let Some(Again { seconds, state, policy: text }) = limited.again else {
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, code, limited.detail);
        };
        Problem::new(StatusCode::TOO_MANY_REQUESTS, code, limited.detail)
            .header(header::RETRY_AFTER, HeaderValue::from(seconds))
            .header(LIMIT, HeaderValue::from(state.per_minute))
            .header(REMAINING, HeaderValue::from(state.remaining()))
            .header(RESET, HeaderValue::from(seconds))
            .header(POLICY, policy(text))
    }
}

impl From<UsedUp> for Problem {
    /// 503 when the process has no more, 429 when it is one's own part that is used up.
    fn from(used_up: UsedUp) -> Problem {
        let status = match used_up.whose {
            "process" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::TOO_MANY_REQUESTS,
        };
        Problem::new(status, used_up.code, used_up.detail)
            .header(header::RETRY_AFTER, HeaderValue::from_static("1"))
            .with(|document| {
                document.limit = Some(used_up.limit);
                document.whose = Some(used_up.whose);
            })
    }
}
