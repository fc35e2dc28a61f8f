//! The one loop that everything behind the log runs in: projections, rules,
//! webhook fan-out.
//!
//! Guarantees that a consumer sees a shard's events in order, and that what it
//! does inside the database happens exactly once: the checkpoint moves in the same
//! transaction. Any number of instances may run the same consumer; `SKIP LOCKED`
//! shares the shards between them, and no leader is needed.
//!
//! Does not guarantee when: a wake-up is a hint, a timer stands behind it, and an
//! error is tried again after a pause, visibly, until it is mended. It never skips.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::log::{AppendError, EVENTS_PER_APPEND_MAX, Log, Window, signal_or_poll};

/// The pause after an error, before the same events are tried again.
const RETRY_PAUSE_MS: u64 = 1_000;

/// Why a step failed. Nothing of it happened.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// PostgreSQL said no, or is gone.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    /// The log refused what the consumer wanted to append.
    #[error("{0}")]
    Append(#[from] AppendError),
    /// An event that cannot be understood.
    #[error("shard {shard}, position {position}: {source}")]
    Event {
        /// Where.
        shard: i16,
        /// The event's position.
        position: i64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A saved state that cannot be understood.
    #[error("the rules' state of {patient}: {source}")]
    State {
        /// Whose.
        patient: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// The name of the consumer that evaluates rules.
pub const RULES: &str = "rules";

/// What of the log a consumer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Every event.
    Everything,
    /// What is no reading: alerts, acknowledgements, registrations. Readings only
    /// move its checkpoint, by the timer, so that they cost it next to nothing.
    Happenings,
}

/// Something that follows the log.
pub trait Consumer: Send + Sync + 'static {
    /// What a step leaves for [`Consumer::committed`].
    type Done: Send;

    /// The checkpoint's name.
    fn name(&self) -> &str;

    /// What it waits for.
    fn follows(&self) -> Follows;

    /// How many positions one step takes at most.
    fn window_positions_max(&self) -> i64;

    /// The shortest time between two steps that had work: longer means fewer,
    /// larger transactions; zero means at once.
    fn pace(&self) -> Duration;

    /// Whether readings that somebody waits for cut the pace short.
    fn hurries(&self) -> bool {
        false
    }

    /// Acts on a window, inside the transaction that moves the checkpoint.
    fn act(
        &self,
        tx: &mut PgConnection,
        window: &Window,
    ) -> impl Future<Output = Result<Self::Done, ConsumerError>> + Send;

    /// Told after the commit, for wake-ups.
    fn committed(&self, _window: &Window, _done: Self::Done) {}
}

/// What a step found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do, or another instance is at it.
    Idle,
    /// Caught up with the head as it was.
    CaughtUp,
    /// There is more.
    Behind,
}

/// Gives a consumer its checkpoints, at the beginning of the log.
pub async fn register(
    connection: &mut PgConnection,
    name: &str,
    shards: impl Iterator<Item = i16>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into checkpoint (consumer, shard) select $1, unnest($2::smallint[]) \
         on conflict do nothing",
    )
    .bind(name)
    .bind(shards.collect::<Vec<i16>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// How many positions each consumer is behind the log, over all shards.
pub async fn lag(pool: &PgPool) -> Result<Vec<(String, i64)>, sqlx::Error> {
    sqlx::query_as(
        "select c.consumer, sum(h.position - c.position)::bigint \
         from checkpoint c join shard_head h using (shard) group by 1 order by 1",
    )
    .fetch_all(pool)
    .await
}

/// A row of `claim.sql`.
#[derive(sqlx::FromRow)]
struct Claimed {
    after: i64,
    upto: i64,
    head: i64,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
}

/// Takes one step on a shard: claim, act, move the checkpoint, commit.
pub async fn step<C: Consumer>(
    pool: &PgPool,
    consumer: &C,
    shard: i16,
) -> Result<Step, ConsumerError> {
    let mut tx = pool.begin().await?;
    let claimed: Option<Claimed> = sqlx::query_as(include_str!("claim.sql"))
        .bind(shard)
        .bind(consumer.name())
        .bind(consumer.window_positions_max())
        .bind(EVENTS_PER_APPEND_MAX as i64)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(Claimed { after, upto, head, since, until }) = claimed else {
        tx.rollback().await?;
        return Ok(Step::Idle);
    };
    if let (Some(since), Some(until)) = (since, until) {
        let window = Window { shard, after, to: upto, since, until };
        let done = consumer.act(&mut tx, &window).await?;
        tx.commit().await?;
        consumer.committed(&window, done);
    } else {
        // Positions that duplicates left empty.
        tx.commit().await?;
    }
    Ok(if upto < head { Step::Behind } else { Step::CaughtUp })
}

/// Follows one shard until told to stop. A step under way is finished first.
pub async fn run<C: Consumer>(
    log: Log,
    pool: PgPool,
    consumer: std::sync::Arc<C>,
    shard: i16,
    stop: CancellationToken,
) {
    let mut moved = match consumer.follows() {
        Follows::Everything => log.wake().follow(shard),
        Follows::Happenings => log.wake().follow_happenings(shard),
    };
    let mut urgent = log.wake().follow_urgent(shard);
    while !stop.is_cancelled() {
        // Marked as seen before looking, so that a move in between wakes us.
        moved.mark_unchanged();
        urgent.mark_unchanged();
        match step(&pool, &*consumer, shard).await {
            Ok(Step::Behind) => continue,
            Ok(Step::CaughtUp) => {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(consumer.pace()) => {}
                    Ok(()) = urgent.changed(), if consumer.hurries() => {}
                }
            }
            Ok(Step::Idle) => {}
            Err(error) => {
                let name = consumer.name();
                metrics::counter!("vitals_consumer_errors_total", "consumer" => name.to_owned())
                    .increment(1);
                tracing::error!(consumer = name, shard, %error, "stopped at this event; trying again");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(Duration::from_millis(RETRY_PAUSE_MS)) => {}
                }
                continue;
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = signal_or_poll(&mut moved) => {}
        }
    }
}
