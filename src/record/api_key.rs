//! API keys made, and taken out of use: in somebody's name.
//!
//! Guarantees that a key is there if and only if the log says who made it, with what it may,
//! and that it is out of use if and only if the log says so, as it does of tokens: whoever
//! follows that knows. Does not hold a key's text, and puts its hash into no event.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use crate::event::{API_KEY_MADE, Event, NO_PATIENT, TOKEN_REVOKED};
use crate::log::{AppendError, Log, append, in_turn};

/// Keys of a tenant that are in use.
pub const API_KEYS_MAX: i64 = 10_000;

/// A key to be made.
#[derive(Clone, Copy)]
pub struct NewKey<'a> {
    /// Its own name.
    pub id: &'a str,
    /// SHA-256 of its text.
    pub hash: &'a [u8],
    /// What it is for.
    pub name: &'a str,
    /// What it may, with spaces between.
    pub scopes: &'a str,
    /// If set, the one device that it is for.
    pub device: Option<&'a str>,
    /// If set, the one patient.
    pub patient: Option<&'a str>,
    /// If set, the wards.
    pub wards: Option<&'a [String]>,
    /// When it ceases to be good.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Makes a key; not if there are as many as there may be.
pub async fn make(
    log: &Log,
    tenant: &str,
    key: &NewKey<'_>,
    (by, now): (&str, DateTime<Utc>),
) -> Result<bool, AppendError> {
    let NewKey { id, hash, name, scopes, device, patient, wards, expires_at } = *key;
    log.ensure_partitions(std::iter::once(now)).await?;
    let mut tx = log.pool().begin().await?;
    // Who makes another one waits, and counts this one.
    in_turn(&mut tx, &format!("api keys/{tenant}")).await?;
    if in_use(&mut tx, tenant, now).await? >= API_KEYS_MAX {
        return Ok(false);
    }
    sqlx::query(
        "insert into api_key (id, tenant, hash, name, scopes, device, patient, wards, made_by, \
                              made_at, expires_at) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(id)
    .bind(tenant)
    .bind(hash)
    .bind(name)
    .bind(scopes)
    .bind(device)
    .bind(patient)
    .bind(wards)
    .bind(by)
    .bind(now)
    .bind(expires_at)
    .execute(&mut *tx)
    .await?;
    let data = json!({
        "v": 1, "key": id, "name": name, "scope": scopes, "device": device, "patient": patient,
        "wards": wards, "expiresAt": expires_at,
    });
    say(log, tx, API_KEY_MADE, (tenant, by), (now, data)).await?;
    Ok(true)
}

async fn in_use(
    tx: &mut PgConnection,
    tenant: &str,
    now: DateTime<Utc>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from api_key where tenant = $1 and revoked_at is null \
         and (expires_at is null or expires_at > $2)",
    )
    .bind(tenant)
    .bind(now)
    .fetch_one(tx)
    .await
}

/// Takes a key out of use, which is known by `token_id` as a token is; whether it was in use.
pub async fn revoke(
    log: &Log,
    (tenant, id): (&str, &str),
    token_id: &str,
    (by, reason): (&str, &str),
    now: DateTime<Utc>,
) -> Result<bool, AppendError> {
    log.ensure_partitions(std::iter::once(now)).await?;
    let mut tx = log.pool().begin().await?;
    let changed = sqlx::query(
        "update api_key set revoked_at = $3, revoked_by = $4 \
         where tenant = $1 and id = $2 and revoked_at is null",
    )
    .bind(tenant)
    .bind(id)
    .bind(now)
    .bind(by)
    .execute(&mut *tx)
    .await?;
    if changed.rows_affected() == 0 {
        return Ok(false);
    }
    let data = json!({ "v": 1, "jti": token_id, "reason": reason });
    say(log, tx, TOKEN_REVOKED, (tenant, by), (now, data)).await?;
    Ok(true)
}

async fn say(
    log: &Log,
    mut tx: sqlx::PgTransaction<'_>,
    kind: &str,
    (tenant, by): (&str, &str),
    (now, data): (DateTime<Utc>, serde_json::Value),
) -> Result<(), AppendError> {
    let shard = log.shard_of(tenant, NO_PATIENT);
    let events = [Event::non_reading(kind, (tenant, NO_PATIENT), by, now, data.to_string())];
    append(&mut tx, shard, &events).await?;
    tx.commit().await?;
    log.wake().appended(shard, &events);
    Ok(())
}

/// Keeps in which hour keys were last used; a key's row is written once an hour at most.
pub async fn used(log: &Log, ids: &[String], now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update api_key set used_at = date_trunc('hour', $2::timestamptz, 'UTC') \
         where id = any ($1) \
           and (used_at is null or used_at < date_trunc('hour', $2::timestamptz, 'UTC'))",
    )
    .bind(ids)
    .bind(now)
    .execute(log.pool())
    .await
    .map(|_| ())
}
