//! Heartbeats: a delivery at a fixed pace, so that a receiver knows that the way is alive.
//!
//! Guarantees one delivery row for an endpoint and a time at which one was due, whatever
//! the number of instances, and at most one that waits: an endpoint that does not answer finds one
//! heartbeat afterwards and no more. Does not guarantee the pace to the second, and
//! makes up for nothing: heartbeats of a time at which no instance ran are not sent later.
//!
//! A heartbeat is no event of the log. Its row has the negative of its time (in seconds
//! since 1970) where others have their event's position.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::queue::DeliveryQueue;
use crate::event::NO_PATIENT;
use crate::log::{Log, ReplyTimeout};
use crate::wire::HeartbeatBody;

/// The type of the events.
pub const HEARTBEAT: &str = "HEARTBEAT";
/// The fastest pace.
pub const PACE_SECONDS_MIN: i32 = 10;
/// The slowest.
pub const PACE_SECONDS_MAX: i32 = 86_400;

/// How often it is looked who is due.
const LOOK_MS: u64 = 1_000;
/// Heartbeats made in one transaction; the others follow at once.
const BATCH_MAX: i64 = 500;

/// The worker.
pub struct Heartbeats {
    log: Log,
    pool: PgPool,
    queue: DeliveryQueue,
}

/// An endpoint that is due.
#[derive(Debug, FromRow)]
struct Due {
    id: Uuid,
    tenant: String,
    heartbeat_seconds: i32,
    now: DateTime<Utc>,
}

impl Heartbeats {
    /// Heartbeats of all endpoints.
    pub fn new(log: &Log, pool: PgPool, queue: DeliveryQueue) -> Heartbeats {
        Heartbeats { log: log.clone(), pool, queue }
    }

    /// Beats until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut timeout = ReplyTimeout::default();
        while !stop.is_cancelled() {
            match timeout.answered(self.beat()).await {
                Ok(0) => {}
                Ok(made) => {
                    timeout.reset();
                    self.queue.request_claim();
                    if made == BATCH_MAX {
                        continue;
                    }
                }
                Err(error) => tracing::error!(%error, "no heartbeats were made; trying again"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_millis(LOOK_MS)) => {}
            }
        }
    }

    /// Makes what is due; how many endpoints were.
    async fn beat(&self) -> Result<i64, sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        let due: Vec<Due> = sqlx::query_as(include_str!("due_heartbeats.sql"))
            .bind(BATCH_MAX)
            .bind(HEARTBEAT)
            .fetch_all(&mut *tx)
            .await?;
        if due.is_empty() {
            return Ok(0);
        }
        let bodies: Result<Vec<_>, _> = due.iter().map(body).collect();
        let bodies = bodies.map_err(|error| sqlx::Error::Encode(error.into()))?;
        sqlx::query(include_str!("insert_heartbeats.sql"))
            .bind(due.iter().map(|d| self.log.shard_of(&d.tenant, NO_PATIENT)).collect::<Vec<_>>())
            .bind(due.iter().map(|d| -d.now.timestamp()).collect::<Vec<_>>())
            .bind(due.iter().map(|d| d.id).collect::<Vec<_>>())
            .bind(due.iter().map(|d| &*d.tenant).collect::<Vec<_>>())
            .bind(due.iter().map(webhook_id).collect::<Vec<_>>())
            .bind(bodies)
            .bind(HEARTBEAT)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(due.len() as i64)
    }
}

fn webhook_id(due: &Due) -> String {
    let time = due.now.timestamp().to_be_bytes();
    format!("msg_{}", Uuid::new_v5(&due.id, &time).simple())
}

fn body(due: &Due) -> Result<String, serde_json::Error> {
    serde_json::to_string(&HeartbeatBody {
        r#type: HEARTBEAT,
        timestamp: due.now.into(),
        event: HEARTBEAT,
        webhook: due.id,
        next_within_seconds: due.heartbeat_seconds,
    })
}
