//! How long anybody waits for an answer of PostgreSQL.
//!
//! Guarantees that a connection whose other side has vanished (a machine that lost its
//! power, a path that drops packets) holds nobody for ever: it does not break by itself,
//! because nothing comes back that could break it. Who asks again and again gives up soon,
//! and less soon until something was done, so that a server that is only slow gets its
//! time. Does not guarantee that what was asked did not happen.

use std::io;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{PgConnection, Postgres};

/// The longest silence, at last, and for questions.
pub const SILENCE_MS_MAX: u64 = 30_000;
/// The same at first, for appends, for consumers' steps and for claims: nobody is taken in
/// and nobody is paged meanwhile. As long as who sends waits for a commit; they take a small
/// part of it, or it doubles.
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

/// Whether a server takes what is written: one that follows another does not.
pub async fn takes_writes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select not pg_is_in_recovery()").fetch_one(connection).await
}

/// Waits for an answer, but not for ever. The connections must be of a pool that tests
/// what is given back to it, or the silent one is never missed there.
pub async fn answered<T, E: From<sqlx::Error>>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    within(SILENCE_MS_MAX, answer).await
}

/// The same for what is small, and is whole however often it is asked.
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

/// How long somebody waits who asks again and again: at first not long.
#[derive(Default)]
pub struct Patience {
    /// How often there was no answer since the last time that something was done.
    silences: u32,
}

impl Patience {
    /// As long as for a question.
    fn whole() -> Patience {
        Patience { silences: u32::MAX }
    }

    /// Waits for an answer, and twice as long the next time if there is none.
    pub async fn answered<T, E: From<sqlx::Error>>(
        &mut self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let ms = self.ms();
        self.heard(answer).await.unwrap_or_else(|| Err(silent(ms).into()))
    }

    /// Something was done. That there was nothing to do is no reason to wait less: what was
    /// given up may be at it still, and hold it.
    pub fn regain(&mut self) {
        self.silences = 0;
    }

    async fn heard<T>(&mut self, answer: impl Future<Output = T>) -> Option<T> {
        let heard = tokio::time::timeout(Duration::from_millis(self.ms()), answer).await.ok();
        if heard.is_none() {
            self.silences = self.silences.saturating_add(1);
        }
        heard
    }

    fn ms(&self) -> u64 {
        SILENCE_MS_MIN.saturating_mul(1 << self.silences.min(8)).min(SILENCE_MS_MAX)
    }
}

/// A connection kept from one question to the next: giving it back to its pool costs a
/// round trip, which those who ask again at once need not pay.
#[derive(Default)]
pub struct Held {
    connection: Option<PoolConnection<Postgres>>,
    /// For the next answer.
    pub patience: Patience,
}

impl Held {
    /// For who asks once, and is not asked for soon.
    pub(crate) fn patient() -> Held {
        Held { connection: None, patience: Patience::whole() }
    }

    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        self.connection.is_some()
    }

    /// Gives it back, and remembers how long to wait.
    pub fn give_back(&mut self) {
        self.connection = None;
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
    let ms = held.patience.ms();
    match held.patience.heard(ask(&mut connection)).await {
        Some(answer) => {
            let answer = answer?;
            held.connection = Some(connection);
            Ok(answer)
        }
        None => {
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

    #[tokio::test]
    async fn who_meets_silence_waits_longer_until_something_was_done() {
        let mut patience = Patience::default();
        for ms in [10_000, 20_000, 30_000, 30_000] {
            assert_eq!(patience.ms(), ms);
            patience.silences += 1;
        }
        // Nothing to do, perhaps because what was given up is at it.
        assert!(patience.answered(async { Ok::<_, sqlx::Error>(()) }).await.is_ok());
        assert_eq!(patience.ms(), SILENCE_MS_MAX);
        patience.regain();
        assert_eq!(patience.ms(), SILENCE_MS_MIN);
        assert_eq!(Patience::whole().ms(), SILENCE_MS_MAX);
    }
}
