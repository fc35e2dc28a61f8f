//! Requests as steps of traces.
//!
//! Guarantees that a `traceparent` is read as W3C demands: one that is malformed, or one of
//! several, is as good as none, and nobody is told. Only who was let in is traced. A span has
//! the route and not the path, which names patients; it ends where the answer begins.
//!
//! Answers say nothing of it: the header for that is a draft.

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::observed::{READINGS, method_name};
use super::problem::Problem;
use crate::auth::Caller;
use crate::trace::{self, Span, TraceContext};

/// A request that belongs to a trace.
pub struct Traced {
    context: TraceContext,
    /// If it is recorded here.
    step: Option<Span>,
    method: &'static str,
    route: String,
}

impl Traced {
    /// From its beginning on; most belong to none.
    pub fn begin(request: &Request, caller: &Caller) -> Option<Traced> {
        let sent = context(request.headers());
        if sent.is_none() && !trace::is_on() {
            return None;
        }
        let (method, route) = (method_name(request.method()), route(request));
        let name = || format!("{method} {route}");
        let step = trace::request(sent.as_ref(), name).map(|mut step| {
            step.set("http.request.method", method);
            step.set("http.route", route.to_owned());
            step.set("vitals.tenant", caller.tenant.to_string());
            step
        });
        let context = step.as_ref().map(Span::context).or(sent)?;
        Some(Traced { context, step, method, route: route.to_owned() })
    }

    /// To where it is answered.
    pub async fn around(
        self,
        answer: impl Future<Output = Result<Response, Problem>>,
    ) -> Result<Response, Problem> {
        let Traced { context, mut step, method, route } = self;
        trace::within(context, async move {
            let answer = answer.await;
            let status = match &answer {
                Ok(answer) => answer.status(),
                Err(problem) => problem.status(),
            };
            tracing::debug!(method, route, status = status.as_u16(), "answered");
            if let Some(step) = &mut step {
                step.set("http.response.status_code", i64::from(status.as_u16()));
                if status.is_server_error() {
                    step.fail(reason(status));
                }
            }
            answer
        })
        .await
    }
}

fn reason(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("a server error")
}

fn route(request: &Request) -> &str {
    match request.extensions().get::<MatchedPath>() {
        Some(route) => route.as_str(),
        // Readings go past the router.
        None if request.uri().path() == READINGS => READINGS,
        None => "none",
    }
}

fn context(headers: &HeaderMap) -> Option<TraceContext> {
    let mut sent = headers.get_all("traceparent").iter();
    let (traceparent, None) = (sent.next()?.to_str().ok()?, sent.next()) else { return None };
    let mut states = headers.get_all("tracestate").iter().map(|state| state.to_str());
    // One list, however many headers it stands in.
    let states = states.try_fold(String::new(), |all, state| {
        state.map(|state| if all.is_empty() { state.to_owned() } else { format!("{all},{state}") })
    });
    TraceContext::read(traceparent, states.ok().as_deref())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(sent: &[(&'static str, &str)]) -> Option<TraceContext> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        context(&headers)
    }

    #[test]
    fn one_parent_is_taken_and_of_two_none() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("traceparent", PARENT)]).unwrap().traceparent(), PARENT);
        assert_eq!(of(&[("traceparent", PARENT), ("traceparent", PARENT)]), None);
        assert_eq!(of(&[("traceparent", "00-ö")]), None);
        assert_eq!(of(&[("tracestate", "a=1")]), None);
    }

    #[test]
    fn a_state_may_stand_in_several_headers() {
        let sent = [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")];
        assert_eq!(of(&sent).unwrap().tracestate().as_deref(), Some("a=1,b=2"));
        let bad = of(&[("traceparent", PARENT), ("tracestate", "ä")]).unwrap();
        assert_eq!(bad.tracestate(), None);
    }
}
