//! How far the folds are.

use sqlx::PgPool;

use super::fold::{ALL, Apply};
use crate::consumer::{ConsumerError, StepResult, step};
use crate::log::Log;

/// Whether consumers have dealt with all that matters to them up to `heads`: `whole`
/// with every event, `sparse` with every one that is no reading. And the heads: those of
/// now if none are given.
pub async fn caught_up(
    pool: &PgPool,
    (shards, heads): (&[i16], Option<&[i64]>),
    whole: &[&str],
    sparse: &[&str],
) -> Result<(Vec<i64>, bool), sqlx::Error> {
    if sparse.is_empty() {
        let query = sqlx::query_as(include_str!("caught_up_whole.sql"));
        return query.bind(shards).bind(heads).bind(whole).fetch_one(pool).await;
    }
    let query = sqlx::query_as(include_str!("caught_up.sql"));
    query.bind(shards).bind(heads).bind(whole).bind(sparse).fetch_one(pool).await
}

/// Folds what no worker has folded yet, up to the head as it is when it gets there.
/// Workers may run at the same time: whoever holds a shard folds it.
pub async fn catch_up(log: &Log) -> Result<(), ConsumerError> {
    for projection in &ALL {
        for shard in log.shards() {
            while step(log.pool(), &Apply(projection), shard).await? == StepResult::Behind {}
        }
    }
    Ok(())
}
