//! How long anybody waits for an answer of PostgreSQL.
//!
//! Guarantees that a connection whose other side has vanished (a machine that lost its
//! power, a path that drops packets) holds up nothing for ever: it does not break by itself,
//! because nothing comes back that could break it. Who asks again and again gives up soon,
//! and less soon until something was done, so that a server that is only slow gets its
//! time. Does not guarantee that what was asked did not happen.

use std::io;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{PgConnection, Postgres};

/// The longest wait for an answer: at last, and for questions.
pub const REPLY_MS_MAX: u64 = 30_000;
/// The same at first, for appends, for consumers' steps and for claims: no reading is taken
/// and no page is sent meanwhile. As long as who sends waits for a commit; they take a small
/// part of it, or it doubles.
pub const REPLY_MS_MIN: u64 = 10_000;

/// A connection that does not say within this that it is idle is not used again.
const PING_MS_MAX: u64 = 2_000;

/// Makes sure, in one round trip, that a connection lives and is in no transaction.
///
/// Who stopped waiting while one began (a client that hung up) left it open: what the
/// next one wrote would never have been committed. `begin` first, because a lone `rollback`
/// is a warning in PostgreSQL's log.
pub async fn is_idle(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let idle = sqlx::raw_sql("begin; rollback").execute(connection);
    let answer = tokio::time::timeout(Duration::from_millis(PING_MS_MAX), idle).await;
    answer.unwrap_or_else(|_| Err(no_answer(PING_MS_MAX))).map(|_| ())
}

/// Whether a server takes what is written: one that follows another does not.
pub async fn takes_writes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select not pg_is_in_recovery()").fetch_one(connection).await
}

/// Waits for an answer, but not for ever. The connections must be of a pool that tests
/// what is given back to it, or the one that does not answer is never missed there.
pub async fn answered<T, E: From<sqlx::Error>>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    within(REPLY_MS_MAX, answer).await
}

/// The same with [`REPLY_MS_MIN`]: for short statements that may safely run twice.
pub async fn answered_soon<T, E: From<sqlx::Error>>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    within(REPLY_MS_MIN, answer).await
}

async fn within<T, E: From<sqlx::Error>>(
    ms: u64,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let answer = tokio::time::timeout(Duration::from_millis(ms), answer).await;
    answer.unwrap_or_else(|_| Err(no_answer(ms).into()))
}

/// How long somebody waits who asks again and again: at first not long.
#[derive(Default)]
pub struct ReplyTimeout {
    /// How often there was no answer since the last time that something was done.
    unanswered: u32,
}

impl ReplyTimeout {
    /// As long as for a question.
    fn whole() -> ReplyTimeout {
        ReplyTimeout { unanswered: u32::MAX }
    }

    /// Waits for an answer, and twice as long the next time if there is none.
    pub async fn answered<T, E: From<sqlx::Error>>(
        &mut self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let ms = self.ms();
        self.within_limit(answer).await.unwrap_or_else(|| Err(no_answer(ms).into()))
    }

    /// Something was done. That there was nothing to do is no reason to wait less: what was
    /// given up may be at it still, and hold it.
    pub fn reset(&mut self) {
        self.unanswered = 0;
    }

    async fn within_limit<T>(&mut self, answer: impl Future<Output = T>) -> Option<T> {
        let heard = tokio::time::timeout(Duration::from_millis(self.ms()), answer).await.ok();
        if heard.is_none() {
            self.unanswered = self.unanswered.saturating_add(1);
        }
        heard
    }

    fn ms(&self) -> u64 {
        REPLY_MS_MIN.saturating_mul(1 << self.unanswered.min(8)).min(REPLY_MS_MAX)
    }
}

/// A connection kept from one question to the next: giving it back to its pool costs a
/// round trip, which those who ask again at once need not pay.
#[derive(Default)]
pub struct GuardedConnection {
    connection: Option<PoolConnection<Postgres>>,
    /// For the next answer.
    pub timeout: ReplyTimeout,
}

impl GuardedConnection {
    /// For who asks once, and is not asked for soon.
    pub(crate) fn for_one_question() -> GuardedConnection {
        GuardedConnection { connection: None, timeout: ReplyTimeout::whole() }
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

/// Asks with a time limit. A connection that does not answer is closed; one that answers is
/// kept.
pub(crate) async fn on_connection<T, E: From<sqlx::Error>>(
    pool: &PgPool,
    held: &mut GuardedConnection,
    ask: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
) -> Result<T, E> {
    let mut connection = match held.connection.take() {
        Some(connection) => connection,
        None => pool.acquire().await?,
    };
    let ms = held.timeout.ms();
    match held.timeout.within_limit(ask(&mut connection)).await {
        Some(answer) => {
            let answer = answer?;
            held.connection = Some(connection);
            Ok(answer)
        }
        None => {
            connection.close_on_drop();
            Err(no_answer(ms).into())
        }
    }
}

fn no_answer(ms: u64) -> sqlx::Error {
    let said = format!("no answer for {ms} ms");
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_an_answer_the_wait_grows_until_something_was_done() {
        let mut timeout = ReplyTimeout::default();
        for ms in [10_000, 20_000, 30_000, 30_000] {
            assert_eq!(timeout.ms(), ms);
            timeout.unanswered += 1;
        }
        // Nothing to do, perhaps because what was given up is at it.
        assert!(timeout.answered(async { Ok::<_, sqlx::Error>(()) }).await.is_ok());
        assert_eq!(timeout.ms(), REPLY_MS_MAX);
        timeout.reset();
        assert_eq!(timeout.ms(), REPLY_MS_MIN);
        assert_eq!(ReplyTimeout::whole().ms(), REPLY_MS_MAX);
    }
}
