//! The table of contents, grouped by who calls.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{OriginalUri, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use futures_util::FutureExt;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use super::auth::link::Links;
use super::auth::{Caller, Keys};
use super::body::TimeLimit;
use super::limits::Limits;
use super::problem::Problem;
use super::{
    alerts, body, corrections, deliveries, devices, diff, health, history, jobs, openapi, page,
    patients, readings, replay, rules, silences, stream, webhook_events, webhooks,
};
use crate::clock::Clock;
use crate::ingest::Ingest;
use crate::log::Log;
use crate::query::live::Live;
use crate::webhook::ack::AckLinks;
use crate::webhook::line::Lines;

/// The longest that an answer may take to begin.
const ANSWER_MS_MAX: u64 = 30_000;

/// What the API stands on.
pub struct Api {
    /// The truth.
    pub log: Log,
    /// The door.
    pub ingest: Ingest,
    /// The log as it grows.
    pub live: Live,
    /// Who may call.
    pub keys: Keys,
    /// How often.
    pub limits: Limits,
    /// The time.
    pub clock: Clock,
    /// How webhooks are called.
    pub lines: Lines,
    /// Links that acknowledge without a token.
    pub links: AckLinks,
    /// The numbers.
    pub metrics: PrometheusHandle,
    /// Ends streams, in either direction.
    pub stop: CancellationToken,
}

/// All routes.
pub fn router(api: Api) -> Router {
    let questions = patients::Questions { log: api.log.clone(), clock: api.clock.clone() };

    let door =
        readings::Door::new(api.ingest, api.clock.clone(), api.limits.clone(), api.stop.clone());
    let senders =
        Router::new().route("/readings", post(readings::store)).with_state(Arc::new(door));
    let dashboards = Router::new()
        .route("/patients", get(patients::list))
        .route("/patients/{patient_id}", get(patients::state).put(patients::register))
        .route("/patients/{patient_id}/readings", get(history::readings))
        .route("/patients/{patient_id}/diff", get(diff::diff))
        .route("/patients/{patient_id}/readings/retract", post(corrections::retract))
        .route("/patients/{patient_id}/{vital}", get(patients::vital))
        .route("/devices", get(devices::list))
        .route("/devices/{id}", get(devices::get))
        .with_state(questions.clone());
    let streams = Router::new()
        .route("/stream", get(stream::live))
        .with_state(stream::Feed { live: api.live });
    let past = Router::new()
        .route("/patients/{patient_id}/replay", get(replay::replay))
        .with_state(replay::Past::new(api.log.clone(), api.stop));
    let nurses = Router::new()
        .route("/alerts", get(alerts::list))
        .route("/alerts/{id}", get(alerts::get))
        .route("/alerts/{id}/clear", post(alerts::clear))
        .with_state(questions.clone());
    // By a token, or by the link that came with the alert. Nothing else is let in so.
    let answering = Router::new()
        .route("/alerts/{id}/ack", post(alerts::acknowledge))
        .with_state(questions.clone())
        .method_not_allowed_fallback(method_not_allowed);
    let tokens = Arc::new(Gate { keys: api.keys, limits: api.limits });
    let links = Links { links: api.links, clock: api.clock.clone() };
    let answering = answering
        .layer(middleware::from_fn_with_state((tokens.clone(), links), admit_by_token_or_link));
    let rulebook = rules::Rulebook {
        log: api.log.clone(),
        clock: questions.clock,
        jobs: jobs::Jobs::default(),
    };
    let clinicians = Router::new()
        .route("/rules", get(rules::list))
        .route("/rules/backtest", post(rules::trial))
        .route("/rules/{id}", put(rules::put).delete(rules::retire))
        .route("/rules/{id}/versions", get(rules::history))
        .route("/silences", get(silences::list).post(silences::create))
        .route("/silences/{id}", get(silences::get).delete(silences::end))
        .route("/jobs/{id}", get(jobs::get).delete(jobs::cancel))
        .with_state(rulebook);
    let hospitals = Router::new()
        .route("/webhooks", get(webhooks::list).post(webhooks::create))
        .route(
            "/webhooks/{id}",
            get(webhooks::get).patch(webhooks::change).delete(webhooks::delete),
        )
        .route("/webhooks/{id}/rotate-secret", post(webhooks::rotate))
        .route("/webhooks/{id}/ping", post(webhooks::ping))
        .route("/webhooks/{id}/deliveries", get(deliveries::list))
        .route("/webhooks/{id}/events", get(webhook_events::list))
        .route("/webhooks/{id}/replay", post(deliveries::replay_range))
        .route("/deliveries/{id}", get(deliveries::get))
        .route("/deliveries/{id}/replay", post(deliveries::replay))
        .with_state(webhooks::Registry {
            log: api.log.clone(),
            lines: api.lines,
            clock: api.clock,
        });

    let v1 = Router::new()
        .merge(senders)
        .merge(dashboards)
        .merge(streams)
        .merge(past)
        .merge(nurses)
        .merge(clinicians)
        .merge(hospitals)
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed);
    let v1 = v1.layer(middleware::from_fn_with_state(tokens, admit_by_token)).merge(answering);
    let others = Router::new()
        .merge(operators(api.log, api.metrics))
        .merge(page::routes())
        .merge(openapi::routes())
        .layer(middleware::from_fn(within_time));

    Router::new()
        .nest("/api/v1", v1)
        .merge(others)
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(every_answer))
}

/// What a request has to pass. One layer, and not one for each of its parts: a layer
/// costs every request a copy of all that lies inside it.
struct Gate {
    keys: Keys,
    limits: Limits,
}

async fn admit_by_token(
    State(gate): State<Arc<Gate>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let caller = gate.keys.caller(request.headers()).await?;
    gate.admit(caller, request, next).await
}

async fn admit_by_token_or_link(
    State((gate, links)): State<(Arc<Gate>, Links)>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let caller = match links.caller(&mut parts).await? {
        Some(caller) => caller,
        None => gate.keys.caller(&parts.headers).await?,
    };
    gate.admit(caller, Request::from_parts(parts, body), next).await
}

impl Gate {
    /// Rate limits, a net and a time limit, for whoever has been let in.
    async fn admit(
        &self,
        caller: Caller,
        mut request: Request,
        next: Next,
    ) -> Result<Response, Problem> {
        let asked = match self.limits.request(&caller) {
            Ok(asked) => asked,
            Err(problem) => {
                // So that its sender gets to read the answer.
                body::discard(request).await;
                return Err(problem);
            }
        };
        request.extensions_mut().insert(caller);
        // Inside the limits: also an answer that came too late, or a defect, is counted and
        // told so, and the time by which it is slowed down is not its own.
        let response = caught(within_time(request, next)).await;
        Ok(self.limits.answer(asked, response).await)
    }
}

/// What every process answers, whatever its roles.
pub fn operators(log: Log, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .with_state(health::Probe { log, metrics })
}

async fn no_such_route(OriginalUri(uri): OriginalUri) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no_such_route",
        format!("there is nothing at {}", uri.path()),
    )
}

async fn method_not_allowed(method: Method, OriginalUri(uri): OriginalUri) -> Problem {
    let detail = format!("{} does not take {method}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

/// The body of a streaming answer is not limited, its beginning is; unless a handler
/// lifts the limit, because it reads a body without an end.
async fn within_time(mut request: Request, next: Next) -> Result<Response, Problem> {
    let limit = TimeLimit::default();
    request.extensions_mut().insert(limit.clone());
    tokio::select! {
        biased;
        answer = next.run(request) => Ok(answer),
        () = limit.over(Duration::from_millis(ANSWER_MS_MAX)) => {
            Err(Problem::unavailable("timeout", "no answer in time: try again"))
        }
    }
}

/// A defect of one handler is one bad answer.
async fn caught(answer: impl Future<Output: IntoResponse>) -> Response {
    AssertUnwindSafe(answer)
        .catch_unwind()
        .await
        .map_or_else(|panic| panicked(&*panic), IntoResponse::into_response)
}

/// What every answer has, also that to a defect.
async fn every_answer(request: Request, next: Next) -> Response {
    let mut response = caught(next.run(request)).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
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
        assert_eq!(caught(defect()).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(caught(async { StatusCode::CREATED }).await.status(), StatusCode::CREATED);
    }
}
