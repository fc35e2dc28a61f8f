//! What an endpoint was to be told, by number.
//!
//! Guarantees that the numbers of an endpoint have no gap and grow in the order in which
//! their deliveries were made visible: who has seen all up to n and asks for what comes
//! after n misses nothing. Does not say that something arrived: `state` does.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

/// One thing to be told.
#[derive(Clone, Debug, FromRow)]
pub struct Numbered {
    /// From 1, without gaps; the `webhook-sequence` of its attempts.
    pub sequence: i64,
    /// As sent.
    pub webhook_id: String,
    /// The event's name.
    pub event: String,
    /// `pending`, `delivered` or `dead`.
    pub state: String,
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

/// The last number of an endpoint; 0 when it was never to be told anything.
pub async fn last(pool: &PgPool, endpoint: Uuid) -> Result<i64, sqlx::Error> {
    let last = sqlx::query_scalar("select last from endpoint_sequence where endpoint_id = $1");
    Ok(last.bind(endpoint).fetch_optional(pool).await?.unwrap_or(0))
}
