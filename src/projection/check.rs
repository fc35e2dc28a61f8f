//! Checking a projection against the log.
//!
//! Guarantees that no difference is reported that was not there at one moment:
//! table, checkpoint and log are read in one snapshot. Does not mend anything:
//! that is `vitals rebuild`.

use futures_util::{StreamExt, TryStreamExt};
use sqlx::PgPool;

use super::Projection;

/// How many differing rows are reported of a shard.
const DIFFERENCES_MAX: usize = 100;

/// A row that is not what the log says.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Difference {
    /// Which row.
    pub key: String,
    /// What the log says, if it says anything.
    pub expected: Option<String>,
    /// What the table holds, if it holds anything.
    pub found: Option<String>,
}

/// Compares a projection's rows of one shard with the log, at its checkpoint.
/// Returns that position and the first differences.
pub async fn check(
    pool: &PgPool,
    projection: &Projection,
    shard: i16,
) -> Result<(i64, Vec<Difference>), sqlx::Error> {
    let mut tx = pool.begin_with("begin isolation level repeatable read read only").await?;
    let position: i64 =
        sqlx::query_scalar("select position from checkpoint where shard = $1 and consumer = $2")
            .bind(shard)
            .bind(projection.consumer)
            .fetch_one(&mut *tx)
            .await?;
    // Row by row: a table that is wholly wrong must not be held in memory.
    let differences: Vec<Difference> = sqlx::query_as(projection.check)
        .bind(shard)
        .bind(position)
        .fetch(&mut *tx)
        .take(DIFFERENCES_MAX)
        .try_collect()
        .await?;
    tx.rollback().await?;
    Ok((position, differences))
}
