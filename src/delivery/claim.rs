//! Claiming: which deliveries this process works on.
//!
//! Guarantees that a claimed delivery is no other instance's for [`LEASE_SECONDS`]: the
//! lease is its `due_at`, the fencing token the number of its attempt. Does not guarantee
//! that it is sent: what a process claimed and did not send is given back, or comes back
//! when the lease ends.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgPool, Row};
use tokio::time::Instant;
use uuid::Uuid;

use super::schedule::Schedule;
use crate::trace::TraceContext;

/// After this an attempt is taken to have died with its process. Longer than waiting here
/// ([`QUEUED_MS_MAX`]), the timeout and the recording together.
pub const LEASE_SECONDS: f64 = 20.0;
/// What has waited in this process for longer is not sent but given back: its lease might
/// end while it is under way.
pub const QUEUED_MS_MAX: u64 = 10_000;

/// A claimed delivery.
#[derive(Clone, Debug, FromRow)]
pub struct Claimed {
    /// The event's shard.
    pub shard: i16,
    /// The event's position.
    pub position: i64,
    /// Where to.
    pub endpoint_id: Uuid,
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub tenant: String,
    /// The same over attempts, replays and endpoints.
    pub webhook_id: String,
    /// Its number at this endpoint.
    pub sequence: Option<i64>,
    /// How long, and how often, it is tried.
    #[sqlx(try_from = "String", rename = "class")]
    pub schedule: Schedule,
    /// Whether it is about an alert of high priority.
    pub is_high: bool,
    /// Whether later ones of the same alert wait for it.
    pub ordered: bool,
    /// The number of this attempt, from 1.
    pub attempts: i32,
    /// Those before the delivery was replayed, which its schedule does not count.
    pub attempts_before: i32,
    /// How old it was when it was claimed; a replay begins anew.
    pub age_seconds: f64,
    /// Whether it is sent to see if a broken endpoint is back.
    pub probe: bool,
    /// What is sent, to the letter.
    pub body: String,
    /// Of the endpoint: see [`super::transport::Destination`].
    pub version: i32,
    /// See [`Claimed::trace_context`], as it is stored.
    pub trace: Option<String>,
}

impl Claimed {
    /// The trace that its attempts follow from.
    pub fn trace_context(&self) -> Option<TraceContext> {
        TraceContext::of_stored(self.trace.as_deref()?)
    }
}

/// What a fan-out made.
#[derive(Debug)]
pub enum Made {
    /// Claimed by being made.
    Claimed(Claimed),
    /// It waits to be claimed.
    Waits {
        /// Where to.
        endpoint_id: Uuid,
    },
}

impl FromRow<'_, PgRow> for Made {
    fn from_row(row: &PgRow) -> Result<Made, sqlx::Error> {
        match row.try_get("attempts")? {
            0_i32 => Ok(Made::Waits { endpoint_id: row.try_get("endpoint_id")? }),
            _ => Ok(Made::Claimed(Claimed::from_row(row)?)),
        }
    }
}

/// A claimed delivery that waits for its attempt.
#[derive(Debug)]
pub struct Waiting {
    /// Which.
    pub claimed: Claimed,
    since: Instant,
}

impl Waiting {
    /// From now on.
    pub fn new(claimed: Claimed) -> Waiting {
        Waiting { claimed, since: Instant::now() }
    }

    /// Whether its lease might end during the attempt.
    pub fn too_late(&self) -> bool {
        self.since.elapsed() > Duration::from_millis(QUEUED_MS_MAX)
    }

    /// How old the delivery is.
    pub fn age(&self) -> Duration {
        Duration::try_from_secs_f64(self.claimed.age_seconds).unwrap_or_default()
            + self.since.elapsed()
    }
}

/// How much a process takes.
#[derive(Clone, Debug, Default)]
pub struct Capacity {
    /// Endpoints of which it takes more or less than of others.
    pub endpoints: Vec<Uuid>,
    /// How many of each of them.
    pub each: Vec<i64>,
    /// How many of one that is not named.
    pub others: i64,
    /// How many at once.
    pub in_all: i64,
}

/// Claims what is due, as far as there is capacity; of endpoints that are to be probed, one.
/// What cannot be read is said and holds up nothing else: its lease brings it back.
pub async fn claim(
    pool: &PgPool,
    capacity: &Capacity,
    probes: &[Uuid],
) -> Result<Vec<Claimed>, sqlx::Error> {
    let rows = sqlx::query(include_str!("claim.sql"))
        .bind(&capacity.endpoints)
        .bind(&capacity.each)
        .bind(capacity.others)
        .bind(LEASE_SECONDS)
        .bind(capacity.in_all)
        .bind(probes)
        .fetch_all(pool)
        .await?;
    let read = |row: &PgRow| {
        Claimed::from_row(row)
            .inspect_err(
                |error| tracing::error!(%error, "a delivery that was claimed is unreadable"),
            )
            .ok()
    };
    Ok(rows.iter().filter_map(read).collect())
}

/// Gives back what was not sent.
pub async fn release(pool: &PgPool, unsent: &[Waiting]) -> Result<(), sqlx::Error> {
    let of = |unsent: &Waiting| unsent.claimed.clone();
    let unsent: Vec<Claimed> = unsent.iter().map(of).collect();
    sqlx::query(include_str!("release.sql"))
        .bind(unsent.iter().map(|c| c.shard).collect::<Vec<_>>())
        .bind(unsent.iter().map(|c| c.position).collect::<Vec<_>>())
        .bind(unsent.iter().map(|c| c.endpoint_id).collect::<Vec<_>>())
        .bind(unsent.iter().map(|c| c.attempts).collect::<Vec<_>>())
        .bind(unsent.iter().map(|c| c.id).collect::<Vec<_>>())
        .execute(pool)
        .await?;
    Ok(())
}
