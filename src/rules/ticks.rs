//! The rules' clock: what time alone moves, on a shard where nothing else happens.
//!
//! Guarantees the same as a step of the rules: state and alert events change in one
//! transaction, exactly once, with any number of instances. A tick due at a moment is
//! taken only when every event before it was read and none can come before it any
//! more, which the shard's head says: it is locked only when the outcome is known, and has
//! to stand where it stood. While events come, [`super::raise`] takes the ticks at their
//! place among them.
//!
//! Does not guarantee when: it looks every [`LOOK_MS`].

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::raise::RulesConsumer;
use crate::consumer::{ConsumerError, RULES};
use crate::log::{ReplyTimeout, head_and_time};

/// How often it looks whether something is due.
pub const LOOK_MS: u64 = 500;

/// Ticks on one shard until told to stop.
pub async fn run(rules: Arc<RulesConsumer>, pool: PgPool, shard: i16, stop: CancellationToken) {
    let mut timeout = ReplyTimeout::default();
    let mut told: Option<String> = None;
    while !stop.is_cancelled() {
        match timeout.answered(tick(&rules, &pool, shard)).await {
            Ok(took) => {
                told = None;
                if took {
                    timeout.reset();
                }
            }
            Err(error) => {
                metrics::counter!("vitals_consumer_errors_total", "consumer" => "rules-clock")
                    .increment(1);
                let error = error.to_string();
                // Once: it is looked at again twice a second.
                if told.as_ref() != Some(&error) {
                    tracing::error!(shard, error, "what is due was not done; trying again");
                }
                told = Some(error);
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(LOOK_MS)) => {}
        }
    }
}

/// Takes what is due, if this shard has been read to its end; whether it did.
pub async fn tick(rules: &RulesConsumer, pool: &PgPool, shard: i16) -> Result<bool, ConsumerError> {
    let is_due: bool = sqlx::query_scalar(
        "select exists (select from rule_state where shard = $1 and due_at <= clock_timestamp())",
    )
    .bind(shard)
    .fetch_one(pool)
    .await?;
    if !is_due {
        return Ok(false);
    }
    let mut tx = pool.begin().await?;
    // In the order in which a step locks them: the checkpoint, and last the head.
    let read: Option<i64> = sqlx::query_scalar(
        "select position from checkpoint where consumer = $1 and shard = $2 for update skip locked",
    )
    .bind(RULES)
    .bind(shard)
    .fetch_optional(&mut *tx)
    .await?;
    let (head, now) = head_and_time(&mut tx, shard).await?;
    if read != Some(head) {
        // There are events to be read, and with them comes the tick.
        tx.rollback().await?;
        return Ok(false);
    }
    let Some(said) = rules.tick(&mut tx, shard, head, now).await? else {
        tx.rollback().await?;
        return Ok(false);
    };
    tx.commit().await?;
    rules.said(shard, &said);
    Ok(true)
}
