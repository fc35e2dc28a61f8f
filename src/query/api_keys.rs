//! API keys as they are kept.
//!
//! Guarantees that what is asked for a tenant is that tenant's alone, newest first in a list.
//! Whose a key is that somebody shows, no tenant can be asked before: [`find`] is for that and
//! for nothing else. Does not know whether a text is a key, and never holds one.

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use crate::log::{Log, answered_soon};

/// A key. Never shown by `Debug`.
#[derive(Clone, FromRow)]
pub struct KeyRow {
    /// Its own name.
    pub id: String,
    /// Whose it is.
    pub tenant: String,
    /// SHA-256 of its text.
    pub hash: Vec<u8>,
    /// What it is for.
    pub name: String,
    /// What it may, with spaces between.
    pub scopes: String,
    /// If set, the one device that it is for.
    pub device: Option<String>,
    /// If set, the one patient.
    pub patient: Option<String>,
    /// If set, the wards.
    pub wards: Option<Vec<String>>,
    /// Who made it.
    pub made_by: String,
    /// When.
    pub made_at: DateTime<Utc>,
    /// When it ceases to be good.
    pub expires_at: Option<DateTime<Utc>>,
    /// The hour in which it was last used.
    pub used_at: Option<DateTime<Utc>>,
    /// When it was taken out of use.
    pub revoked_at: Option<DateTime<Utc>>,
    /// By whom.
    pub revoked_by: Option<String>,
}

/// The key of this name, whosever it is.
pub async fn find(log: &Log, id: &str) -> Result<Option<KeyRow>, sqlx::Error> {
    let found = sqlx::query_as("select * from api_key where id = $1").bind(id);
    answered_soon(async { found.fetch_optional(log.pool()).await }).await
}

/// A tenant's key.
pub async fn get(log: &Log, tenant: &str, id: &str) -> Result<Option<KeyRow>, sqlx::Error> {
    sqlx::query_as("select * from api_key where tenant = $1 and id = $2")
        .bind(tenant)
        .bind(id)
        .fetch_optional(log.pool())
        .await
}

/// A page of a tenant's keys, newest first, after a place.
pub async fn list(
    log: &Log,
    tenant: &str,
    after: Option<(DateTime<Utc>, String)>,
    limit: i64,
) -> Result<Vec<KeyRow>, sqlx::Error> {
    let (made_at, id) = after.unzip();
    sqlx::query_as(
        "select * from api_key \
         where tenant = $1 and ($2::timestamptz is null or (made_at, id) < ($2, $3)) \
         order by made_at desc, id desc limit $4",
    )
    .bind(tenant)
    .bind(made_at)
    .bind(id)
    .bind(limit)
    .fetch_all(log.pool())
    .await
}
