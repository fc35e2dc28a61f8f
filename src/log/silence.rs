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

/// Waits for an answer, but not for ever. The connections must be of a pool that tests
/// what is given back to it, or the silent one is never missed there.
pub async fn answered<T, E: From<sqlx::Error>>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let limit = Duration::from_millis(SILENCE_MS_MAX);
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(silent().into()))
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
            Err(silent().into())
        }
    }
}

fn silent() -> sqlx::Error {
    let said = format!("no answer for {SILENCE_MS_MAX} ms");
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, said))
}
