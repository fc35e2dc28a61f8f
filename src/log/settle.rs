//! What was known at a moment, for good.
//!
//! Guarantees that after [`Log::settle`] nothing can be recorded any more at or before
//! the moment that it returns, by whatever instance and whatever PostgreSQL's clock does:
//! the head's time is a floor, and an append's time is always above it. Does not hold a
//! lock when it returns: appends never wait for readers, but for this one statement.

use chrono::{DateTime, Utc};

use super::{Log, answered};

impl Log {
    /// Settles `known_at` in a shard. A moment that is still to come cannot be settled:
    /// then it is the present one that is, and that is returned.
    pub async fn settle(
        &self,
        shard: i16,
        known_at: DateTime<Utc>,
    ) -> Result<DateTime<Utc>, sqlx::Error> {
        // Almost every question about the past ends here, and writes nothing.
        let settled: bool =
            sqlx::query_scalar("select recorded_at >= $2 from shard_head where shard = $1")
                .bind(shard)
                .bind(known_at)
                .fetch_one(self.pool())
                .await?;
        if settled {
            return Ok(known_at);
        }
        // Waits for whoever is appending: its time was taken under this row's lock.
        let floor: DateTime<Utc> = answered(
            sqlx::query_scalar(
                "update shard_head \
                 set recorded_at = greatest(recorded_at, least($2, clock_timestamp())) \
                 where shard = $1 returning recorded_at",
            )
            .bind(shard)
            .bind(known_at)
            .fetch_one(self.pool()),
        )
        .await?;
        Ok(known_at.min(floor))
    }
}
