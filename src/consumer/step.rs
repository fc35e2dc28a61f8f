//! One step of a consumer on a shard, and the loop that takes them.
//!
//! Guarantees that a step acts and moves its checkpoint in one transaction, or does
//! neither. Does not guarantee when.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::contract::{Consumer, ConsumerError, Follows, RULES};
use super::park::{act_apart, leave_out};
use super::stopped::Errors;
use crate::log::{
    EVENTS_PER_APPEND_MAX, GuardedConnection, Log, Window, on_connection, signal_or_poll,
};

/// A consumer that is not waited for lets this many times as much time pass as its last
/// step took, within its pace_max: the slower the steps, the more each one has to do, and
/// a fold of many readings into one row costs little more than that of one.
const SHARE: u32 = 40;

/// The pause after an error, before the same events are tried again.
const RETRY_PAUSE_MS: u64 = 1_000;

/// What a step found.
#[derive(Debug, PartialEq, Eq)]
pub enum StepResult {
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
    sqlx::query_as(include_str!("lag.sql")).fetch_all(pool).await
}

/// A consumer that has not read so far.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow, thiserror::Error)]
#[error("{consumer} stands at position {position} of shard {shard}, before {upto}")]
pub struct Unread {
    /// Which.
    pub consumer: String,
    /// Where.
    pub shard: i16,
    /// Where it stands.
    pub position: i64,
    /// Where it should.
    pub upto: i64,
}

/// The first consumer that has not read up to these positions of shards. The rules
/// count also where they never began.
pub async fn unread(pool: &PgPool, upto: &[(i16, i64)]) -> Result<Option<Unread>, sqlx::Error> {
    let (shards, positions): (Vec<i16>, Vec<i64>) = upto.iter().copied().unzip();
    sqlx::query_as(
        "select n.consumer, u.shard, coalesce(c.position, 0) as position, u.position as upto \
         from unnest($1::smallint[], $2::bigint[]) as u (shard, position) \
         cross join (select consumer from checkpoint union select $3) n \
         left join checkpoint c on c.shard = u.shard and c.consumer = n.consumer \
         where coalesce(c.position, 0) < u.position \
         order by n.consumer, u.shard limit 1",
    )
    .bind(shards)
    .bind(positions)
    .bind(RULES)
    .fetch_optional(pool)
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
    parked: bool,
}

/// Takes one step on a shard: claim, act, move the checkpoint, commit. When an event of
/// it cannot be acted on, once more: apart, so that only its patient is parked.
pub async fn step<C: Consumer>(
    pool: &PgPool,
    consumer: &C,
    shard: i16,
) -> Result<StepResult, ConsumerError> {
    step_on(pool, &mut GuardedConnection::for_one_question(), consumer, shard, Duration::ZERO).await
}

async fn step_on<C: Consumer>(
    pool: &PgPool,
    held: &mut GuardedConnection,
    consumer: &C,
    shard: i16,
    rest: Duration,
) -> Result<StepResult, ConsumerError> {
    on_connection(pool, held, async |connection| {
        match try_step(connection, consumer, shard, rest, false).await {
            Err(error) if error.is_of_an_event() => {
                try_step(connection, consumer, shard, Duration::ZERO, true).await
            }
            stepped => stepped,
        }
    })
    .await
}

async fn try_step<C: Consumer>(
    connection: &mut PgConnection,
    consumer: &C,
    shard: i16,
    rest: Duration,
    apart: bool,
) -> Result<StepResult, ConsumerError> {
    let mut tx = connection.begin().await?;
    let claimed: Option<Claimed> = sqlx::query_as(include_str!("claim.sql"))
        .bind(shard)
        .bind(consumer.name())
        .bind(consumer.window_positions_max())
        .bind(EVENTS_PER_APPEND_MAX as i64)
        .bind(rest.as_millis().to_string())
        .bind(consumer.whole_appends())
        .fetch_optional(&mut *tx)
        .await?;
    let Some(Claimed { after, upto, head, since, until, parked }) = claimed else {
        tx.rollback().await?;
        return Ok(StepResult::Idle);
    };
    if let (Some(since), Some(until)) = (since, until) {
        let window = Window { shard, after, to: upto, since, until };
        let done = if apart {
            act_apart(&mut tx, consumer, window).await?
        } else {
            if parked {
                leave_out(&mut tx, consumer.name()).await?;
            }
            let done = consumer.act(&mut tx, &window).await?;
            vec![(window, done)]
        };
        tx.commit().await?;
        done.into_iter().for_each(|(window, done)| consumer.committed(&window, done));
    } else {
        // Positions that duplicates left empty.
        tx.commit().await?;
    }
    Ok(if upto < head { StepResult::Behind } else { StepResult::CaughtUp })
}

/// Follows one shard until told to stop. A step under way is finished first. Where there
/// are `turns`, a step that is not waited for takes one.
pub async fn run<C: Consumer>(
    log: Log,
    pool: PgPool,
    consumer: Arc<C>,
    shard: i16,
    turns: Option<Arc<Semaphore>>,
    stop: CancellationToken,
) {
    let mut moved = match consumer.follows() {
        Follows::Everything => log.wake().follow(shard),
        Follows::NonReadings => log.wake().follow_non_readings(shard),
    };
    let mut urgent = log.wake().follow_urgent(shard);
    let mut wanted = log.wake().follow_wanted(consumer.name(), shard);
    // A connection that no other task could use is kept: giving it back costs two round
    // trips, and the next event might wait for them.
    let keeps = pool.options().get_max_connections() == 1;
    let (mut held, mut errors) = (GuardedConnection::default(), Errors::default());
    let (mut is_waited_for, mut is_behind) = (false, false);
    while !stop.is_cancelled() {
        let turn = match &turns {
            Some(turns) if !is_waited_for => tokio::select! {
                turn = turns.acquire() => turn.ok(),
                Ok(()) = wanted.changed() => {
                    is_waited_for = true;
                    None
                }
                () = stop.cancelled() => break,
            },
            _ => None,
        };
        // Marked as seen before looking, so that a move in between wakes us.
        moved.mark_unchanged();
        urgent.mark_unchanged();
        is_waited_for |= wanted.has_changed().unwrap_or(false);
        wanted.mark_unchanged();
        let started = Instant::now();
        // Who is behind already does not rest besides.
        let rest = if is_waited_for || is_behind { Duration::ZERO } else { consumer.rest() };
        let stepped = errors.heard(step_on(&pool, &mut held, &*consumer, shard, rest).await);
        drop(turn);
        if !keeps {
            held.give_back();
        }
        match stepped {
            // Who waits, waits for all of it.
            Ok(StepResult::Behind) => {
                held.timeout.reset();
                is_behind = true;
                continue;
            }
            Ok(stepped) => {
                if stepped == StepResult::CaughtUp {
                    held.timeout.reset();
                }
                (is_waited_for, is_behind) = (false, false);
            }
            Err(error) => {
                errors.met((&pool, &mut held), (consumer.name(), shard), &error).await;
                let pause = Duration::from_millis(RETRY_PAUSE_MS);
                stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                continue;
            }
        }
        let pace = consumer.pace();
        let pause = (started.elapsed() * SHARE).clamp(pace, consumer.pace_max().max(pace));
        tokio::select! {
            () = stop.cancelled() => {}
            () = signal_or_poll(&mut moved) => {}
            // What is waited for may have come in elsewhere.
            Ok(()) = wanted.changed() => is_waited_for = true,
        }
        if pause.is_zero() || is_waited_for {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
            Ok(()) = wanted.changed() => is_waited_for = true,
            Ok(()) = urgent.changed(), if consumer.hurries() => {}
        }
    }
}
