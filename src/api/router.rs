//! The table of contents, grouped by who calls.

use std::time::Duration;

use axum::Router;
use axum::extract::{OriginalUri, Request};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use super::auth::{Keys, authenticate};
use super::problem::Problem;
use super::{alerts, health, history, page, patients, readings, stream, webhooks};
use crate::clock::Clock;
use crate::ingest::Ingest;
use crate::log::Log;
use crate::query::live::Live;
use crate::webhook::guard::Guard;

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
    /// The time.
    pub clock: Clock,
    /// Where webhooks may go.
    pub guard: Guard,
    /// The numbers.
    pub metrics: PrometheusHandle,
    /// Ends streams.
    pub stop: CancellationToken,
}

/// All routes.
pub fn router(api: Api) -> Router {
    let questions = patients::Questions { log: api.log.clone(), clock: api.clock.clone() };

    let devices = Router::new()
        .route("/readings", post(readings::store))
        .with_state(readings::Door { ingest: api.ingest, clock: api.clock });
    let dashboards = Router::new()
        .route("/patients", get(patients::list))
        .route("/patients/{patient_id}", get(patients::state).put(patients::register))
        .route("/patients/{patient_id}/readings", get(history::readings))
        .route("/patients/{patient_id}/{vital}", get(patients::vital))
        .with_state(questions.clone());
    let streams = Router::new()
        .route("/stream", get(stream::live))
        .route("/patients/{patient_id}/replay", get(stream::replay))
        .with_state(stream::Feed { live: api.live, log: api.log.clone(), stop: api.stop });
    let nurses = Router::new()
        .route("/alerts", get(alerts::list))
        .route("/alerts/{id}", get(alerts::get))
        .route("/alerts/{id}/ack", post(alerts::acknowledge))
        .with_state(questions);
    let hospitals = Router::new()
        .route("/webhooks", get(webhooks::list).post(webhooks::create))
        .route(
            "/webhooks/{id}",
            get(webhooks::get).patch(webhooks::change).delete(webhooks::delete),
        )
        .route("/webhooks/{id}/deliveries", get(webhooks::deliveries))
        .route("/deliveries/{id}", get(webhooks::delivery))
        .with_state(webhooks::Registry { log: api.log.clone(), guard: api.guard });

    let v1 = Router::new()
        .merge(devices)
        .merge(dashboards)
        .merge(streams)
        .merge(nurses)
        .merge(hospitals)
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(api.keys, authenticate));

    Router::new()
        .nest("/api/v1", v1)
        .merge(operators(api.log, api.metrics))
        .merge(page::routes())
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(limit_time))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(common_headers))
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

/// The body of a streaming answer is not limited, its beginning is.
async fn limit_time(request: Request, next: Next) -> Result<Response, Problem> {
    tokio::time::timeout(Duration::from_millis(ANSWER_MS_MAX), next.run(request))
        .await
        .map_err(|_| Problem::unavailable("timeout", "no answer in time: try again"))
}

async fn common_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let what = panic.downcast_ref::<&str>().copied();
    let what = what.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(what, "a handler panicked");
    let detail = "this is a defect of the server: it was logged";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).into_response()
}
