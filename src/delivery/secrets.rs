//! Secrets over time: new keys for endpoints, and a new key for sealing them.
//!
//! Guarantees that the key before a rotation signs on beside the new one for
//! [`ROTATION_HOURS`], however often it is rotated; and that after [`take_over`] every
//! secret in the database is as the first key would have it. Processes that run on with
//! other keys cannot open what was taken over: give all of them both keys first.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::endpoint::{Endpoint, place, sealed};
use super::seal::{Seal, UnsealError};
use super::webhook::key::{Key, OLDER_KEYS_MAX, ROTATION_HOURS};

/// Why a key was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// PostgreSQL said no, or is gone.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    /// Every key that signs makes every request longer.
    #[error(
        "{OLDER_KEYS_MAX} older keys sign still, each for {ROTATION_HOURS} hours after its rotation: \
         wait until {until}, or make another endpoint"
    )]
    TooOften {
        /// When the oldest ends.
        until: DateTime<Utc>,
    },
}

/// Gives an endpoint a new key; the one before signs beside it until the time that is
/// returned. `None` if the tenant has no such endpoint.
pub async fn rotate(
    pool: &PgPool,
    seal: &Seal,
    tenant: &str,
    id: Uuid,
    key: &Key,
    now: DateTime<Utc>,
) -> Result<Option<(Endpoint, DateTime<Utc>)>, RotateError> {
    let mut tx = pool.begin().await?;
    let found: Option<Endpoint> =
        sqlx::query_as("select * from endpoint where tenant = $1 and id = $2 for update")
            .bind(tenant)
            .bind(id)
            .fetch_optional(&mut *tx)
            .await?;
    let Some(endpoint) = found else { return Ok(None) };
    let until = now + TimeDelta::hours(ROTATION_HOURS);
    let mut older = vec![(endpoint.secret, until)];
    let before = endpoint.secrets_before.into_iter().zip(endpoint.secrets_before_until);
    older.extend(before.filter(|(_, until)| *until > now));
    if older.len() > OLDER_KEYS_MAX {
        let until = older.iter().map(|(_, until)| *until).min().unwrap_or(until);
        return Err(RotateError::TooOften { until });
    }
    let (secrets, untils): (Vec<String>, Vec<DateTime<Utc>>) = older.into_iter().unzip();
    let endpoint = sqlx::query_as(
        "update endpoint set secret = $2, signature = $3, public_key = $4, secrets_before = $5, \
            secrets_before_until = $6, version = version + 1 where id = $1 returning *",
    )
    .bind(id)
    .bind(sealed(seal, id, "secret", &key.to_text()))
    .bind(key.scheme().name())
    .bind(key.public())
    .bind(secrets)
    .bind(untils)
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Some((endpoint, until)))
}

/// Why the secrets of a database cannot be used with the keys that were given.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// PostgreSQL said no, or is gone.
    #[error("reading the webhooks' secrets: {0}")]
    Database(#[from] sqlx::Error),
    /// Another key, or the row was changed.
    #[error("a secret of the webhook {endpoint} cannot be opened: {source}")]
    Sealed {
        /// Whose.
        endpoint: Uuid,
        /// Why.
        source: UnsealError,
    },
    /// The same of the key that acknowledging links are signed with.
    #[error("the key of the acknowledging links cannot be opened: {0}")]
    AckKey(UnsealError),
}

#[derive(FromRow)]
struct Secrets {
    id: Uuid,
    secret: String,
    secrets_before: Vec<String>,
    headers: Option<String>,
    client_key: Option<String>,
}

/// Opens every secret, so that a wrong key is noticed at the start and not at the first
/// page, and seals anew what another key sealed or none. How many endpoints were taken
/// over.
pub async fn take_over(pool: &PgPool, seal: &Seal) -> Result<u64, TakeOverError> {
    let mut tx = pool.begin().await?;
    let rows: Vec<Secrets> = sqlx::query_as(
        "select id, secret, secrets_before, headers, client_key from endpoint order by id for update",
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut taken = 0;
    for row in rows {
        let id = row.id;
        let again = |field: &str, stored: &str| -> Result<String, TakeOverError> {
            let opened = seal.open(&place(id, field), stored);
            let text = opened.map_err(|source| TakeOverError::Sealed { endpoint: id, source })?;
            Ok(match seal.is_current(stored) {
                true => stored.to_owned(),
                false => sealed(seal, id, field, &text),
            })
        };
        let secret = again("secret", &row.secret)?;
        let before: Result<Vec<String>, _> =
            row.secrets_before.iter().map(|stored| again("secret", stored)).collect();
        let before = before?;
        let headers = row.headers.as_deref().map(|stored| again("headers", stored)).transpose()?;
        let key = row.client_key.as_deref().map(|key| again("client_key", key)).transpose()?;
        if (&secret, &before, &headers, &key)
            == (&row.secret, &row.secrets_before, &row.headers, &row.client_key)
        {
            continue;
        }
        sqlx::query(
            "update endpoint set secret = $2, secrets_before = $3, headers = $4, client_key = $5 \
             where id = $1",
        )
        .bind(id)
        .bind(secret)
        .bind(before)
        .bind(headers)
        .bind(key)
        .execute(&mut *tx)
        .await?;
        taken += 1;
    }
    tx.commit().await?;
    Ok(taken)
}

/// Where the key of the acknowledging links lies.
const ACK_KEY: &str = "ack_key";

/// The key that this installation signs acknowledging links with; made when there is
/// none, and sealed anew when it is not as the first key would have it.
pub async fn ack_key(pool: &PgPool, seal: &Seal) -> Result<String, TakeOverError> {
    let fresh: [u8; 32] = rand::random();
    let fresh: String = fresh.iter().map(|byte| format!("{byte:02x}")).collect();
    sqlx::query(
        "insert into ack_key (id, secret, created_at) values (1, $1, clock_timestamp()) \
         on conflict do nothing",
    )
    .bind(seal.seal(ACK_KEY, &fresh, rand::random()))
    .execute(pool)
    .await?;
    let stored: String = sqlx::query_scalar("select secret from ack_key").fetch_one(pool).await?;
    let key = seal.open(ACK_KEY, &stored).map_err(TakeOverError::AckKey)?;
    if !seal.is_current(&stored) {
        sqlx::query("update ack_key set secret = $1 where secret = $2")
            .bind(seal.seal(ACK_KEY, &key, rand::random()))
            .bind(&stored)
            .execute(pool)
            .await?;
    }
    Ok(key)
}
