//! How long anybody waits for an answer of PostgreSQL.
//!
//! Guarantees that a connection whose other side has vanished (a machine that lost its
//! power, a path that drops packets) holds nobody for ever: it does not break by itself,
//! because nothing comes back that could break it. Does not guarantee that what was asked
//! did not happen.

use std::io;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{PgConnection, Postgres};

/// The longest silence. An append and a consumer's step take a small part of it, or
/// they would be tried again and again.
pub const SILENCE_MS_MAX: u64 = 30_000;

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
    let limit = Duration::from_millis(SILENCE_MS_MAX);
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(silent(SILENCE_MS_MAX).into()))
}

/// A connection kept from one question to the next: giving it back to its pool costs a
/// round trip, which those who ask again at once need not pay.
pub type Held = Option<PoolConnection<Postgres>>;

/// The same on a connection of any pool: a silent one is not given back, and one that
/// answered is held.
pub(crate) async fn on_connection<T, E: From<sqlx::Error>>(
    pool: &PgPool,
    held: &mut Held,
    ask: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
) -> Result<T, E> {
    let mut connection = match held.take() {
        Some(connection) => connection,
        None => pool.acquire().await?,
    };
    let limit = Duration::from_millis(SILENCE_MS_MAX);
    match tokio::time::timeout(limit, ask(&mut connection)).await {
        Ok(Ok(answer)) => {
            *held = Some(connection);
            Ok(answer)
        }
        Ok(Err(error)) => Err(error),
        Err(_) => {
            connection.close_on_drop();
            Err(silent(SILENCE_MS_MAX).into())
        }
    }
}

fn silent(ms: u64) -> sqlx::Error {
    let said = format!("no answer for {ms} ms");
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, said))
}
