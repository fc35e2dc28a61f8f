//! What became of deliveries, for the endpoint's owner.
//!
//! Guarantees that only the tenant's own are shown. Does not change anything.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::state::DeliveryState;

/// A delivery without its body.
#[derive(Clone, Debug, FromRow)]
pub struct Delivery {
    /// Its id.
    pub id: Uuid,
    /// Where to.
    pub endpoint_id: Uuid,
    /// As sent.
    pub webhook_id: String,
    /// The event's name.
    pub event: String,
    /// How it stands.
    #[sqlx(try_from = "String")]
    pub state: DeliveryState,
    /// Attempts made or under way.
    pub attempts: i32,
    /// When the fan-out made it.
    pub created_at: DateTime<Utc>,
    /// When it was delivered or given up.
    pub finished_at: Option<DateTime<Utc>>,
    /// When the next attempt is due, or the lease of the one under way ends.
    pub due_at: DateTime<Utc>,
    /// Its number at its endpoint.
    pub sequence: Option<i64>,
    /// Why it is dead.
    pub reason: Option<String>,
    /// The shard that its attempts lie in.
    pub shard: i16,
    /// What is sent, to the letter.
    pub body: String,
}

/// One attempt, as it was recorded.
#[derive(Clone, Debug, FromRow)]
pub struct AttemptRecord {
    /// Counts from 1.
    pub number: i32,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub latency_ms: i32,
    /// Of the answer, if one came.
    pub status: Option<i32>,
    /// Why none came.
    pub error: Option<String>,
    /// The answer's first bytes.
    pub answer_head: Option<String>,
}

/// Deliveries of an endpoint, newest first, from before a cursor.
pub async fn list(
    pool: &PgPool,
    tenant: &str,
    endpoint: Uuid,
    state: Option<DeliveryState>,
    before: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> Result<Vec<Delivery>, sqlx::Error> {
    let (before_at, before_id) = before.unzip();
    sqlx::query_as(
        "select * from delivery where endpoint_id = $1 and tenant = $2 \
           and ($3::text is null or state = $3) \
           and ($4::timestamptz is null or (created_at, id) < ($4, $5)) \
         order by created_at desc, id desc limit $6",
    )
    .bind(endpoint)
    .bind(tenant)
    .bind(state.map(DeliveryState::name))
    .bind(before_at)
    .bind(before_id)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// One delivery and its attempts.
pub async fn get(
    pool: &PgPool,
    tenant: &str,
    id: Uuid,
) -> Result<Option<(Delivery, Vec<AttemptRecord>)>, sqlx::Error> {
    let delivery: Option<Delivery> =
        sqlx::query_as("select * from delivery where id = $1 and tenant = $2")
            .bind(id)
            .bind(tenant)
            .fetch_optional(pool)
            .await?;
    let Some(delivery) = delivery else { return Ok(None) };
    let attempts = sqlx::query_as(
        "select number, started_at, latency_ms, status, error, answer_head from attempt \
         where shard = $1 and delivery_id = $2 order by number",
    )
    .bind(delivery.shard)
    .bind(id)
    .fetch_all(pool)
    .await?;
    Ok(Some((delivery, attempts)))
}
