//! Deliveries once more: one, or all of a time.
//!
//! Guarantees that what is replayed is sent again to the letter and under the same
//! `webhook-id`, on a schedule of its own that begins now, and that its attempts go on
//! counting. A receiver that had it before can drop it. Does not wait for it: the deliverer
//! looks for what is due by itself.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use super::state::DeliveryState;

/// The most deliveries of one request: they go out before what comes after them.
pub const REPLAY_MAX: i64 = 10_000;

/// Which finished deliveries of an endpoint are sent again.
#[derive(Debug)]
pub struct ReplayFilter {
    /// Made at this time or later.
    pub from: DateTime<Utc>,
    /// Made before this time.
    pub to: DateTime<Utc>,
    /// Delivered or dead; both when left out. What is pending is on its way already.
    pub state: Option<DeliveryState>,
    /// The event's name.
    pub event: Option<String>,
}

/// What became of a wish to replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// So many are due now.
    Due(i64),
    /// More than [`REPLAY_MAX`]; none was touched.
    TooMany(i64),
}

/// Makes one delivery due now, also one that is pending and waits for its next attempt.
/// One whose attempt is under way at this moment is left to it.
pub async fn one(pool: &PgPool, tenant: &str, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("replay_one.sql")).bind(tenant).bind(id).execute(pool).await?;
    Ok(())
}

/// Makes a range of an endpoint's finished deliveries due now.
pub async fn range(
    pool: &PgPool,
    tenant: &str,
    endpoint: Uuid,
    filter: &ReplayFilter,
) -> Result<Replayed, sqlx::Error> {
    let (found, replayed): (i64, i64) = sqlx::query_as(include_str!("replay_range.sql"))
        .bind(tenant)
        .bind(endpoint)
        .bind(filter.from)
        .bind(filter.to)
        .bind(filter.state.map(DeliveryState::name))
        .bind(&filter.event)
        .bind(REPLAY_MAX)
        .fetch_one(pool)
        .await?;
    Ok(match found > REPLAY_MAX {
        true => Replayed::TooMany(found),
        false => Replayed::Due(replayed),
    })
}
