//! A shard's head: how far its log goes, and the log's time.
//!
//! Guarantees that all up to a head is committed, and that whoever has locked one finds it
//! unmoved until their transaction ends: a head is locked by appends, and by who is about to
//! append. Take turns ([`super::in_turn`]) before heads, never after, and heads in the order
//! of the shards. Does not wait for what is being written; that is `settle`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// A shard's last position.
pub async fn head(connection: &mut PgConnection, shard: i16) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select position from shard_head where shard = $1")
        .bind(shard)
        .fetch_one(connection)
        .await
}

/// The last position of each shard, in their order.
pub async fn heads(connection: &mut PgConnection) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar("select position from shard_head order by shard").fetch_all(connection).await
}

/// A shard's last position, and a time before which nothing comes after it.
pub async fn head_and_time(
    connection: &mut PgConnection,
    shard: i16,
) -> Result<(i64, DateTime<Utc>), sqlx::Error> {
    sqlx::query_as(
        "select position, greatest(recorded_at, clock_timestamp()) from shard_head where shard = $1",
    )
    .bind(shard)
    .fetch_one(connection)
    .await
}

/// When the log learned what lies at a position. `None` beyond its head.
pub async fn time_at(
    connection: &mut PgConnection,
    shard: i16,
    position: i64,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar(
        "select recorded_at from log_commit where shard = $1 and position_to >= $2 \
         order by position_to limit 1",
    )
    .bind(shard)
    .bind(position)
    .fetch_optional(connection)
    .await
}

/// Locks a shard's head until the transaction ends, and says where it is: for who is about
/// to append, and has to know that nothing came in between.
pub async fn lock_head(tx: &mut PgConnection, shard: i16) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select position from shard_head where shard = $1 for update")
        .bind(shard)
        .fetch_one(tx)
        .await
}

/// A commit of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its last position.
    pub(super) position: i64,
    /// When the log learned it.
    pub(super) recorded_at: DateTime<Utc>,
}
