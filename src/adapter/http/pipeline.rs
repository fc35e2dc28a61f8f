//! What a request has to pass, and what every answer has.
//!
//! Guarantees that a handler runs only for who was let in, within their limits and their
//! share of the process, and for a bounded time until its answer begins; that an answer
//! which is not taken is held within such a share, too; and that a defect of one handler is
//! one bad answer; and that all of it is on record ([`super::accessed`]).
//! Does not look at what is asked: a handler names its own scope.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use super::accessed::Asked;
use super::body::{self, Allowance};
use super::browser::Browsers;
use super::connections::tls::CertificateCaller;
use super::problem::Problem;
use super::ratelimit;
use super::token::{bearer, shows_token};
use super::traced::Traced;
use crate::audit::Audit;
use crate::auth::{Caller, Keys};
use crate::limits::Limits;
use crate::limits::shares::{Permit, ShareHolder, Shares};

/// The longest that an answer may take to begin.
const ANSWER_MS_MAX: u64 = 30_000;
/// How long a question waits for those that its asker has asked before.
const QUESTION_MS_MAX: u64 = 5_000;
/// So much of an answer counts against no share: about what the system buffers by itself.
const ANSWER_BYTES_FREE: u64 = 64 * 1024;

/// Who is let in, and how often.
pub struct RequestPipeline {
    keys: Keys,
    limits: Limits,
    shares: Arc<Shares>,
    browsers: Option<Arc<Browsers>>,
    audit: Audit,
}

impl RequestPipeline {
    /// A pipeline that has answered nothing yet. Without `browsers` nobody signs in here.
    pub fn new(
        keys: Keys,
        limits: Limits,
        shares: Arc<Shares>,
        browsers: Option<Arc<Browsers>>,
        audit: Audit,
    ) -> RequestPipeline {
        RequestPipeline { keys, limits, shares, browsers, audit }
    }

    /// What is asked, before anything is done. `route`: where no router has named it.
    pub async fn asked(&self, request: &mut Request, route: Option<&str>) -> Asked {
        Asked::of(&self.audit, request, route).await
    }

    /// Answers whoever calls, and has it on record, whatever came of it.
    pub async fn on_record(
        &self,
        asked: Asked,
        caller: Result<Arc<Caller>, Problem>,
        answer: impl AsyncFnOnce(Arc<Caller>) -> Result<Response, Problem>,
    ) -> Result<Response, Problem> {
        let caller = match caller {
            Ok(caller) => caller,
            Err(problem) => {
                asked.by_nobody(&self.audit, &problem);
                return Err(problem);
            }
        };
        let accessing = asked.by(&self.audit, &caller).await?;
        // Pinned, as below: what is handed on by value is copied at every step.
        let answer = pin!(answer(caller));
        accessing.answered(answer.await).await
    }

    /// Who calls: by the token or key of their request, or where it has none by their session, or
    /// by the certificate of the connection. In this order: a person who signed in is who acts, at
    /// whatever machine.
    pub async fn caller(
        &self,
        method: &Method,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Arc<Caller>, Problem> {
        if shows_token(headers) {
            return Ok(self.keys.caller(bearer(headers)?).await?);
        }
        if let Some(browsers) = &self.browsers
            && let Some(session) = browsers.session(method, headers).await?
        {
            return Ok(Arc::new(session.caller));
        }
        match extensions.get::<CertificateCaller>() {
            Some(shown) => {
                let caller = shown.0.clone()?;
                self.keys.is_still_good(&caller)?;
                Ok(caller)
            }
            None => Ok(self.keys.caller(bearer(headers)?).await?),
        }
    }

    /// Rate limits, a net and a time limit, for whoever has been let in; as a step of the
    /// trace that it belongs to.
    pub async fn admit(
        &self,
        caller: &Caller,
        request: Request,
        handler: impl AsyncFnOnce(Request) -> Result<Response, Problem>,
    ) -> Result<Response, Problem> {
        let traced = Traced::begin(&request, caller);
        let answer = pin!(self.handled(caller, request, handler));
        match traced {
            None => answer.await,
            Some(traced) => traced.around(answer).await,
        }
    }

    async fn handled(
        &self,
        caller: &Caller,
        request: Request,
        handler: impl AsyncFnOnce(Request) -> Result<Response, Problem>,
    ) -> Result<Response, Problem> {
        let asked = match self.limits.request(caller).await {
            Ok(asked) => asked,
            Err(limited) => {
                // So that its sender gets to read the answer.
                body::discard(request).await;
                return Err(limited.into());
            }
        };
        // Inside the limits: also an answer that came too late, or a defect, is counted and
        // told so, and the time by which it is slowed down is not its own.
        let holder = ShareHolder::of(caller);
        let lends = Some((self.shares.clone(), holder.clone()));
        let asks = matches!(*request.method(), Method::GET | Method::HEAD);
        let answer = pin!(async {
            // Not read any further where there is no place: that would take one, too.
            let _place = self.shares.requests.lend(&holder, 1)?;
            let _question = match asks {
                true => {
                    let wait = Duration::from_millis(QUESTION_MS_MAX);
                    Some(self.shares.questions.lend_within(&holder, 1, wait).await?)
                }
                false => None,
            };
            within_time(request, lends, handler).await
        });
        let response = self.held(caught(answer).await, &holder).await;
        Ok(ratelimit::told(&self.limits, asked, response).await)
    }

    /// The same answer, held for its asker until all of it was sent; or that they hold too
    /// many of those. What is made while it is sent holds little of itself.
    async fn held(&self, response: Response, holder: &ShareHolder) -> Response {
        let bytes = response.body().size_hint().exact().unwrap_or(0);
        if bytes <= ANSWER_BYTES_FREE {
            return response;
        }
        let held =
            match self.shares.answers.lend(holder, usize::try_from(bytes).unwrap_or(usize::MAX)) {
                Ok(held) => held,
                Err(used_up) => return Problem::from(used_up).into_response(),
            };
        let (parts, body) = response.into_parts();
        match axum::body::to_bytes(body, usize::MAX).await {
            Ok(bytes) => {
                let bytes = Bytes::from_owner(Kept { bytes, _held: held });
                Response::from_parts(parts, Body::from(bytes))
            }
            Err(error) => {
                tracing::error!(%error, "an answer broke off before it began");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Problem::new(status, "internal", "the answer broke off: try again").into_response()
            }
        }
    }
}

/// Bytes of an answer, and the right to hold them.
struct Kept {
    bytes: Bytes,
    _held: Permit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of a streaming answer is not limited, its beginning is; unless a handler
/// lifts the limit, because it reads a body without an end.
pub async fn within_time(
    mut request: Request,
    lends: Option<(Arc<Shares>, ShareHolder)>,
    handler: impl AsyncFnOnce(Request) -> Result<Response, Problem>,
) -> Result<Response, Problem> {
    let limit = Allowance::new(lends);
    request.extensions_mut().insert(limit.clone());
    tokio::select! {
        biased;
        answer = handler(request) => answer,
        () = limit.over(Duration::from_millis(ANSWER_MS_MAX)) => {
            Err(Problem::unavailable("timeout", "no answer in time: try again"))
        }
    }
}

/// What every answer has, also that to a defect.
pub async fn every_answer(answer: Pin<&mut impl Future<Output: IntoResponse>>) -> Response {
    let mut response = caught(answer).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A defect of one handler is one bad answer.
///
/// Pinned, here and above: a future that is handed on by value is kept at every step that it
/// passes, and the steps of a reading had made 112 kB of what is 5.5.
async fn caught(answer: Pin<&mut impl Future<Output: IntoResponse>>) -> Response {
    AssertUnwindSafe(answer)
        .catch_unwind()
        .await
        .map_or_else(|panic| panicked(&*panic), IntoResponse::into_response)
}

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let what = panic.downcast_ref::<&str>().copied();
    let what = what.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(what, "a handler panicked");
    let detail = "this is a defect of the server: it was logged";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_defect_of_a_handler_is_one_bad_answer() {
        let defect = async || -> StatusCode { panic!("a test's") };
        let caught_defect = caught(pin!(defect())).await;
        assert_eq!(caught_defect.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let answer = caught(pin!(async { StatusCode::CREATED })).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
    }
}
