//! For operators: alive, ready, numbers.
//!
//! "Live" is that this process answers; "ready" is that it can keep its promises,
//! which takes the database.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use crate::consumer;
use crate::log::Log;

/// The longest that the database may take to answer and still be called ready.
const READY_MS_MAX: u64 = 2_000;

/// What these routes stand on.
#[derive(Clone)]
pub struct Probe {
    pub(super) log: Log,
    pub(super) metrics: PrometheusHandle,
}

/// `GET /health/live`
pub async fn live() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

/// `GET /health/ready`: how far each consumer is behind the log.
pub async fn ready(State(probe): State<Probe>) -> Result<Json<Value>, Problem> {
    let lag =
        tokio::time::timeout(Duration::from_millis(READY_MS_MAX), consumer::lag(probe.log.pool()))
            .await
            .map_err(|_| {
                Problem::unavailable("database_slow", "the database does not answer in time")
            })??;
    let lag: Map<String, Value> = lag.into_iter().map(|(who, n)| (who, n.into())).collect();
    Ok(Json(json!({ "status": "ready", "lag": lag })))
}

/// `GET /metrics`, for Prometheus.
pub async fn metrics(State(probe): State<Probe>) -> Response {
    match consumer::lag(probe.log.pool()).await {
        Ok(lag) => lag.into_iter().for_each(|(consumer, lag)| {
            metrics::gauge!("vitals_consumer_lag_positions", "consumer" => consumer)
                .set(lag as f64);
        }),
        Err(error) => tracing::debug!(%error, "the consumers' lag is not known"),
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, probe.metrics.render()).into_response()
}
