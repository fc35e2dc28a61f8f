//! For operators: alive, ready, numbers.
//!
//! "Live" is that this process answers; "ready" is that it can keep its promises,
//! which takes the database.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;

use super::availability::Availability;
use super::problem::Problem;
use crate::clock::{Clock, rfc3339};
use crate::consumer::{self, Stopped};
use crate::delivery::breaker;
use crate::log::Log;
use crate::projection;
use crate::wire::{Found, Health, Members};

/// The longest that the database may take to answer and still be called ready.
const READY_MS_MAX: u64 = 2_000;
/// How far the log's time may be from this process's before somebody should look.
const CLOCKS_APART_SECONDS_MAX: i64 = 10;
/// Before a certificate expires, a ward is told for this long.
const CERTIFICATE_URGENT_DAYS: i64 = 2;
/// For how long somebody should know that the log was restored.
const RESTORED_DAYS: i64 = 3;

/// What these routes stand on.
#[derive(Clone)]
pub struct Probe {
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) metrics: PrometheusHandle,
    pub(super) availability: Availability,
}

/// `GET /health/live`
pub async fn live() -> Json<Health> {
    Json(Health { status: "live", found: None })
}

/// `GET /health/ready`: how far each consumer is behind the log, and what somebody should
/// look at although everything else goes on.
pub async fn ready(State(probe): State<Probe>) -> Result<Json<Health>, Problem> {
    probe.availability.is_clear()?;
    let pool = probe.log.pool();
    let asked =
        async { Ok::<_, sqlx::Error>((consumer::lag(pool).await?, warnings(&probe).await?)) };
    let (lag, mut warnings) =
        tokio::time::timeout(Duration::from_millis(READY_MS_MAX), asked).await.map_err(
            |_| Problem::unavailable("database_slow", "the database does not answer in time"),
        )??;
    let can_wait: Vec<String> = can_wait(&probe).into_iter().collect();
    warnings.extend_from_slice(&can_wait);
    let lag = Members(lag.into_iter().map(|(who, n)| (who.into(), n)).collect());
    Ok(Json(Health { status: "ready", found: Some(Found { lag, warnings, can_wait }) }))
}

async fn warnings(probe: &Probe) -> Result<Vec<String>, sqlx::Error> {
    let pool = probe.log.pool();
    let parked = consumer::counts(pool).await?;
    let mut warnings: Vec<String> = parked
        .into_iter()
        .map(|(who, n)| format!("{who} has parked {n} of its patients: see vitals parked"))
        .collect();
    let stopped = consumer::stopped(pool).await?;
    warnings.extend(stopped.into_iter().map(|Stopped { consumer, shard, reason, since }| {
        let since = rfc3339(since);
        format!("{consumer} has stopped in shard {shard}, since {since}, and tries again: {reason}")
    }));
    let drifting = projection::drifting(pool).await?;
    warnings.extend(drifting.into_iter().map(|(name, n)| {
        format!("projection {name} is not what the log says of {n} patients: vitals rebuild {name}")
    }));
    let unreachable = breaker::count(pool).await?;
    if unreachable > 0 {
        warnings.push(format!(
            "{unreachable} webhook endpoints cannot be reached, and pages to them wait: \
             GET /api/v1/webhooks says which, and why"
        ));
    }
    warnings.extend(restored(probe).await?);
    warnings.extend(expires(probe).filter(|(_, is_urgent)| *is_urgent).map(|(text, _)| text));
    let ahead = probe.log.ahead_of(&probe.clock).await?.num_seconds();
    if ahead > CLOCKS_APART_SECONDS_MAX {
        warnings.push(format!(
            "the log's time is {ahead} s ahead of this process's: if PostgreSQL's clock is the wrong \
             one, readings look late by as much, and rules that allow less page nobody"
        ));
    } else if ahead < -CLOCKS_APART_SECONDS_MAX {
        let behind = -ahead;
        warnings.push(format!(
            "PostgreSQL's clock is {behind} s behind this process's: one of the two is wrong"
        ));
    }
    Ok(warnings)
}

/// What somebody should look at this week, and no ward needs to know.
fn can_wait(probe: &Probe) -> Option<String> {
    expires(probe).filter(|(_, is_urgent)| !is_urgent).map(|(text, _)| text)
}

/// That the certificate expires, and whether it is so soon that a ward will notice.
fn expires(probe: &Probe) -> Option<(String, bool)> {
    let now = probe.clock.now();
    let at = probe.availability.expires_soon(now)?;
    let text = format!(
        "the TLS certificate expires at {}: put the next one in its place, which is read without \
         a restart",
        rfc3339(at)
    );
    Some((text, at - now < TimeDelta::days(CERTIFICATE_URGENT_DAYS)))
}

/// That the log goes on from another place than it was, and what is gone.
async fn restored(probe: &Probe) -> Result<Option<String>, sqlx::Error> {
    let Some(now) = probe.log.restored().await? else { return Ok(None) };
    if probe.clock.now() - now.began_at > TimeDelta::days(RESTORED_DAYS) {
        return Ok(None);
    }
    let gone = match now.lost() {
        0 => "nothing that is known to have been acknowledged is gone".to_owned(),
        lost => format!("{lost} positions that were acknowledged are gone: send them again"),
    };
    let (began_at, number) = (rfc3339(now.began_at), now.number);
    Ok(Some(format!(
        "the log was restored at {began_at} ({}), incarnation {number}: {gone}; cursors from before \
         are answered with log_restored",
        now.reason
    )))
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
    match probe.log.ahead_of(&probe.clock).await {
        Ok(ahead) => metrics::gauge!("vitals_log_ahead_seconds").set(ahead.as_seconds_f64()),
        Err(error) => tracing::debug!(%error, "how far clocks are apart is not known"),
    }
    metrics::gauge!("vitals_log_incarnation").set(probe.log.incarnations().number() as f64);
    match probe.log.restored().await {
        Ok(now) => {
            metrics::gauge!("vitals_log_lost_positions").set(now.map_or(0, |now| now.lost()) as f64)
        }
        Err(error) => tracing::debug!(%error, "whether the log was restored is not known"),
    }
    if let Err(error) = patients(probe.log.pool()).await {
        tracing::debug!(%error, "who is parked or has stopped is not known");
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, probe.metrics.render()).into_response()
}

/// How many patients are parked, where somebody has stopped, and of how many patients a
/// projection is wrong. Nobody is told,
/// too, or the last number would stand for ever.
async fn patients(pool: &PgPool) -> Result<(), sqlx::Error> {
    let (parked, drifting) = (consumer::counts(pool).await?, projection::drifting(pool).await?);
    let stopped = consumer::stopped(pool).await?;
    for (who, _) in consumer::lag(pool).await? {
        let n = parked.iter().find(|(name, _)| *name == who).map_or(0, |(_, n)| *n);
        let shards = stopped.iter().filter(|stopped| stopped.consumer == who).count();
        metrics::gauge!("vitals_stopped_shards", "consumer" => who.clone()).set(shards as f64);
        metrics::gauge!("vitals_parked_patients", "consumer" => who).set(n as f64);
    }
    for projection in &projection::ALL {
        let n = drifting.iter().find(|(name, _)| *name == projection.name).map_or(0, |(_, n)| *n);
        metrics::gauge!("vitals_drifting_patients", "projection" => projection.name).set(n as f64);
    }
    Ok(())
}
