//! Where consumers have stopped: told once in the log, and to whoever asks any instance.
//!
//! Guarantees that a consumer which meets an error again and again is found here, with what
//! it stopped at, until its checkpoint moves. Does not say it of an error that happened
//! once (it is tried again a moment later), nor while the database cannot be written.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::contract::ConsumerError;
use crate::log::{GuardedConnection, on_connection};

/// A shard in which a consumer does not go on.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Stopped {
    /// Who.
    pub consumer: String,
    /// Where.
    pub shard: i16,
    /// What it stopped at.
    pub reason: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// Who has stopped, and has not gone on since.
pub async fn stopped(pool: &PgPool) -> Result<Vec<Stopped>, sqlx::Error> {
    sqlx::query_as(
        "select s.consumer, s.shard, s.reason, s.since \
         from stopped s join checkpoint c using (shard, consumer, position) order by 1, 2",
    )
    .fetch_all(pool)
    .await
}

/// The errors of one shard's loop.
#[derive(Default)]
pub(super) struct Errors {
    /// The last one, as it was told. `None` since a step was taken.
    told: Option<String>,
}

impl Errors {
    /// Hands on what a step came to: after one that was taken an error is new.
    pub fn heard<T>(&mut self, stepped: Result<T, ConsumerError>) -> Result<T, ConsumerError> {
        if stepped.is_ok() {
            self.told = None;
        }
        stepped
    }

    /// A step was not: the first time it is logged, and when it comes again it is written
    /// down for others.
    pub async fn met(
        &mut self,
        (pool, held): (&PgPool, &mut GuardedConnection),
        (consumer, shard): (&str, i16),
        error: &ConsumerError,
    ) {
        metrics::counter!("vitals_consumer_errors_total", "consumer" => consumer.to_owned())
            .increment(1);
        // Nobody can be told in writing while the database is away.
        let is_away = matches!(
            error,
            ConsumerError::Database(
                sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed
            )
        );
        let error = error.to_string();
        if self.told.as_ref() != Some(&error) {
            tracing::error!(consumer, shard, error, "stopped in this window; trying again");
        }
        if self.told.is_some()
            && !is_away
            && let Err(error) = write(pool, held, (consumer, shard), &error).await
        {
            tracing::debug!(consumer, shard, %error, "where it stopped was not written down");
        }
        self.told = Some(error);
    }
}

async fn write(
    pool: &PgPool,
    held: &mut GuardedConnection,
    (consumer, shard): (&str, i16),
    reason: &str,
) -> Result<(), sqlx::Error> {
    on_connection(pool, held, async |connection| {
        sqlx::query(
            "insert into stopped (shard, consumer, position, reason) \
             select shard, consumer, position, $3 from checkpoint \
             where shard = $1 and consumer = $2 \
             on conflict (shard, consumer) do update \
             set position = excluded.position, reason = excluded.reason, since = case \
                 when stopped.position = excluded.position then stopped.since \
                 else excluded.since end \
             where (stopped.position, stopped.reason) <> (excluded.position, excluded.reason)",
        )
        .bind(shard)
        .bind(consumer)
        .bind(reason)
        .execute(connection)
        .await
        .map(|_| ())
    })
    .await
}
