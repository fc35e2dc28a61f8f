//! How long anybody waits for an answer of PostgreSQL.
//!
//! Guarantees that a connection whose other side has vanished (a machine that lost its
//! power, a path that drops packets) holds nobody for ever: it does not break by itself,
//! because nothing comes back that could break it. Who appends or takes steps gives up
//! soon, and less soon each time, so that a server that is only slow gets its time. Does
//! not guarantee that what was asked did not happen.

use std::io;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{PgConnection, Postgres};

/// The longest silence, at last, and for questions.
pub const SILENCE_MS_MAX: u64 = 30_000;
/// The same at first, for appends and for consumers' steps: nobody is taken in and nobody
/// is paged meanwhile. As long as who sends waits for a commit; they take a small part of
/// it, or it doubles.
pub const SILENCE_MS_MIN: u64 = 10_000;

/// A connection that does not say within this that it is idle is not used again.
const PING_MS_MAX: u64 = 2_000;

/// Makes sure, in one round trip, that a connection lives and is in no transaction.
///
/// Who stopped waiting while one began (a client that hung up) left it to nobody: what the
/// next one wrote would never have been committed. `begin` first, because a lone `rollback`
/// is a warning in PostgreSQL's log.
pub async fn is_idle(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let idle = sqlx::raw_sql("begin; rollback").execute(connection);
    let answer = tokio::time::timeout(Duration::from_millis(PING_MS_MAX), idle).await;
    answer.unwrap_or_else(|_| Err(silent(PING_MS_MAX))).map(|_| ())
}

/// Waits for an answer, but not for ever. The connections must be of a pool that tests
/// what is given back to it, or the silent one is never missed there.
pub async fn answered<T, E: From<sqlx::Error>>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    within(SILENCE_MS_MAX, answer).await
}

/// The same for what is small and waited for by those who page.
pub async fn answered_soon<T, E: From<sqlx::Error>>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    within(SILENCE_MS_MIN, answer).await
}

async fn within<T, E: From<sqlx::Error>>(
    ms: u64,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let answer = tokio::time::timeout(Duration::from_millis(ms), answer).await;
    answer.unwrap_or_else(|_| Err(silent(ms).into()))
}

/// A connection kept from one question to the next: giving it back to its pool costs a
/// round trip, which those who ask again at once need not pay.
#[derive(Default)]
pub struct Held {
    connection: Option<PoolConnection<Postgres>>,
    /// How often in a row there was no answer.
    silences: u32,
}

impl Held {
    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        self.connection.is_some()
    }

    /// Gives it back, and remembers how long to wait.
    pub fn give_back(&mut self) {
        self.connection = None;
    }

    /// How long to wait for the next answer.
    fn silence_ms(&self) -> u64 {
        SILENCE_MS_MIN.saturating_mul(1 << self.silences.min(8)).min(SILENCE_MS_MAX)
    }
}

/// Asks on a connection of any pool, and not for ever: a silent one is not given back, and
/// one that answered is held.
pub(crate) async fn on_connection<T, E: From<sqlx::Error>>(
    pool: &PgPool,
    held: &mut Held,
    ask: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
) -> Result<T, E> {
    let mut connection = match held.connection.take() {
        Some(connection) => connection,
        None => pool.acquire().await?,
    };
    let ms = held.silence_ms();
    match tokio::time::timeout(Duration::from_millis(ms), ask(&mut connection)).await {
        Ok(answer) => {
            held.silences = 0;
            let answer = answer?;
            held.connection = Some(connection);
            Ok(answer)
        }
        Err(_) => {
            held.silences = held.silences.saturating_add(1);
            connection.close_on_drop();
            Err(silent(ms).into())
        }
    }
}

fn silent(ms: u64) -> sqlx::Error {
    let said = format!("no answer for {ms} ms");
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_met_silence_waits_longer_the_next_time_and_never_longer_than_a_question() {
        let waits = |silences| Held { connection: None, silences }.silence_ms();
        let found: Vec<u64> = (0..4).map(waits).collect();
        assert_eq!(found, [10_000, 20_000, 30_000, 30_000]);
        assert_eq!(waits(u32::MAX), SILENCE_MS_MAX);
    }
}
