//! The breaker: whether an endpoint is worth calling.
//!
//! Closed (no row), open (a pause), half open (one probe). The state lies in the table
//! `breaker` and is the same for all instances; each counts the failures it sees by itself
//! ([`super::queue::DeliveryQueue::ended`]). Guarantees that opening says so once, as the event
//! `ENDPOINT_UNREACHABLE`, in one transaction with handing the tenant's fallbacks the high
//! alarms that wait; and that closing says so. Does not lose what waits: deliveries stay
//! pending and go out when the endpoint is back.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::schedule::ALARM_S_MAX;
use super::state::BreakerState;
use crate::event::{ENDPOINT_REACHABLE, ENDPOINT_UNREACHABLE, Event, NO_PATIENT};
use crate::log::{AppendError, Log, append};

/// The first pause of an open breaker; each further one is twice as long …
const PAUSE_S: f64 = 5.0;
/// … up to this: an endpoint that is back is noticed within it.
const PAUSE_S_MAX: f64 = 60.0;
/// How long a probe may take until another one is sent. Longer than an attempt.
const PROBE_SECONDS: f64 = 10.0;
/// An endpoint that asks a high alarm to wait longer than this cannot take it now.
pub const RETRY_AFTER_S_OPENS: u64 = 10;

/// Why a breaker could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum BreakerError {
    /// PostgreSQL said no, or is gone.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    /// The log did not take the event.
    #[error("{0}")]
    Append(#[from] AppendError),
}

/// A breaker that is not closed, as people are told of it.
#[derive(Clone, Debug, FromRow)]
pub struct OpenBreaker {
    /// Whose.
    pub endpoint_id: Uuid,
    /// How it stands.
    #[sqlx(try_from = "String")]
    pub state: BreakerState,
    /// Since when its endpoint is not called as always.
    pub since: DateTime<Utc>,
    /// Until when nothing is sent.
    pub until: DateTime<Utc>,
    /// What was the matter last.
    pub reason: String,
}

/// The breakers of a tenant's endpoints that are not closed.
pub async fn of_tenant(pool: &PgPool, tenant: &str) -> Result<Vec<OpenBreaker>, sqlx::Error> {
    sqlx::query_as(
        "select b.endpoint_id, b.state, b.since, b.until, b.reason from breaker b \
         join endpoint e on e.id = b.endpoint_id where e.tenant = $1",
    )
    .bind(tenant)
    .fetch_all(pool)
    .await
}

/// How many of all endpoints cannot be reached.
pub async fn count(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from breaker b join endpoint e on e.id = b.endpoint_id")
        .fetch_one(pool)
        .await
}

/// Opens the breaker of an endpoint, or opens it again after a probe that failed, then
/// for longer. Jitter is 0–1; the pause is at least what the endpoint asked for.
pub async fn open(
    log: &Log,
    pool: &PgPool,
    endpoint: Uuid,
    reason: &str,
    asked: Option<Duration>,
    jitter: f64,
    now: DateTime<Utc>,
) -> Result<(), BreakerError> {
    log.ensure_partitions([now].into_iter()).await?;
    let mut tx = pool.begin().await?;
    let asked = asked.unwrap_or_default().as_secs_f64().min(PAUSE_S_MAX);
    let opened: Option<(i32, String)> = sqlx::query_as(include_str!("open.sql"))
        .bind(endpoint)
        .bind(reason)
        .bind(PAUSE_S)
        .bind(PAUSE_S_MAX)
        .bind(0.5 + 0.5 * jitter)
        .bind(asked)
        .fetch_optional(&mut *tx)
        .await?;
    let Some((openings, tenant)) = opened else {
        tx.rollback().await?;
        return Ok(());
    };
    if openings > 1 {
        tx.commit().await?;
        return Ok(());
    }
    let handed_over = fail_over(&mut tx, endpoint).await?;
    let data = serde_json::json!({
        "v": 1, "endpointId": endpoint, "reason": reason, "handedOver": handed_over,
    });
    let (shard, events) = notice(log, &tenant, ENDPOINT_UNREACHABLE, &data, now);
    sqlx::query("set local synchronous_commit = on").execute(&mut *tx).await?;
    append(&mut tx, shard, &events).await?;
    tx.commit().await?;
    log.wake().appended(shard, &events);
    tracing::error!(%endpoint, reason, handed_over, "an endpoint cannot be reached");
    Ok(())
}

/// Closes the breaker of an endpoint that answered again.
pub async fn close(
    log: &Log,
    pool: &PgPool,
    endpoint: Uuid,
    now: DateTime<Utc>,
) -> Result<(), BreakerError> {
    log.ensure_partitions([now].into_iter()).await?;
    let mut tx = pool.begin().await?;
    let closed: Option<(String, DateTime<Utc>)> = sqlx::query_as(
        "delete from breaker b using endpoint e where b.endpoint_id = $1 and e.id = $1 \
         returning e.tenant, b.since",
    )
    .bind(endpoint)
    .fetch_optional(&mut *tx)
    .await?;
    let Some((tenant, since)) = closed else {
        tx.rollback().await?;
        return Ok(());
    };
    let data = serde_json::json!({ "v": 1, "endpointId": endpoint, "since": since });
    let (shard, events) = notice(log, &tenant, ENDPOINT_REACHABLE, &data, now);
    append(&mut tx, shard, &events).await?;
    tx.commit().await?;
    log.wake().appended(shard, &events);
    tracing::info!(%endpoint, "an endpoint can be reached again");
    Ok(())
}

/// Endpoints that this process may probe now: their pause is over and something is due.
pub async fn to_probe(pool: &PgPool) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(include_str!("probe.sql")).bind(PROBE_SECONDS).fetch_all(pool).await
}

/// Gives the tenant's fallbacks the high alarms that still wait for an endpoint; how many.
pub async fn fail_over(tx: &mut PgConnection, endpoint: Uuid) -> Result<u64, sqlx::Error> {
    let made = sqlx::query(include_str!("fail_over.sql"))
        .bind(endpoint)
        .bind(ALARM_S_MAX as f64)
        .execute(tx)
        .await?;
    Ok(made.rows_affected())
}

/// An event about an endpoint, in its tenant's own stream.
fn notice(
    log: &Log,
    tenant: &str,
    kind: &str,
    data: &serde_json::Value,
    now: DateTime<Utc>,
) -> (i16, [Event; 1]) {
    let event = Event::non_reading(kind, (tenant, NO_PATIENT), "webhooks", now, data.to_string());
    (log.shard_of(tenant, NO_PATIENT), [event])
}
