//! What an endpoint was to be told, by number.
//!
//! Guarantees that the numbers of an endpoint have no gap and grow in the order in which
//! their deliveries were made visible: who has seen all up to n and asks for what comes
//! after n misses nothing. Numbers of a new incarnation of the log are greater than all of
//! those before, so none is given twice; between two incarnations there is a gap, and a number
//! from before a restore is not taken for a place after it. Does not say that something
//! arrived: `state` does.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::state::DeliveryState;

/// One thing to be told.
#[derive(Clone, Debug, FromRow)]
pub struct Numbered {
    /// From 1, without gaps within an incarnation; the `webhook-sequence` of its attempts.
    pub sequence: i64,
    /// As sent.
    pub webhook_id: String,
    /// The event's name.
    pub event: String,
    /// How it stands.
    #[sqlx(try_from = "String")]
    pub state: DeliveryState,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// What is sent, to the letter.
    pub body: String,
}

/// What comes after a number, in order. The endpoint must be the tenant's.
pub async fn after(
    pool: &PgPool,
    endpoint: Uuid,
    after: i64,
    limit: i64,
) -> Result<Vec<Numbered>, sqlx::Error> {
    sqlx::query_as(
        "select sequence, webhook_id, event, state, created_at, body from delivery \
         where endpoint_id = $1 and sequence > $2 order by sequence limit $3",
    )
    .bind(endpoint)
    .bind(after)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// The last number up to `after` that this history still has, made before `before`: a number
/// that was given in a lost one may be that of nothing, or of something else.
pub async fn kept(
    pool: &PgPool,
    endpoint: Uuid,
    after: i64,
    before: i64,
) -> Result<i64, sqlx::Error> {
    let kept = sqlx::query_scalar(
        "select coalesce(max(sequence), 0) from delivery \
         where endpoint_id = $1 and sequence <= $2 and sequence <= $3",
    );
    kept.bind(endpoint).bind(after).bind(before).fetch_one(pool).await
}

/// The last number of an endpoint; 0 when it was never to be told anything.
pub async fn last(pool: &PgPool, endpoint: Uuid) -> Result<i64, sqlx::Error> {
    let last = sqlx::query_scalar("select last from endpoint_sequence where endpoint_id = $1");
    Ok(last.bind(endpoint).fetch_optional(pool).await?.unwrap_or(0))
}
