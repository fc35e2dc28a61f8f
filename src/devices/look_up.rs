//! Looking devices up in the log.
//!
//! Guarantees that all that was committed before it is asked is in the answer, in at most two
//! questions by an index, however many readings there are. An id that is an alias is answered
//! with the device that it belongs to.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::device::Device;
use crate::event::NO_PATIENT;
use crate::log::Log;

#[derive(sqlx::FromRow)]
struct Row {
    source_id: String,
    r#type: String,
    occurred_at: DateTime<Utc>,
    recorded_at: DateTime<Utc>,
    data: Option<String>,
}

/// The devices of these ids, as far as they were known at a moment; those of which nothing was
/// said are left out.
pub async fn find(
    log: &Log,
    tenant: &str,
    ids: &[String],
    known_at: Option<DateTime<Utc>>,
) -> Result<HashMap<String, Device>, sqlx::Error> {
    find_on(&mut *log.pool().acquire().await?, log, tenant, ids, known_at).await
}

/// The same in a transaction.
pub async fn find_on(
    connection: &mut PgConnection,
    log: &Log,
    tenant: &str,
    ids: &[String],
    known_at: Option<DateTime<Utc>>,
) -> Result<HashMap<String, Device>, sqlx::Error> {
    let shard = log.shard_of(tenant, NO_PATIENT);
    let mut found = read(connection, (shard, tenant), ids, known_at).await?;
    let owner = |device: &Device| device.alias_of.clone();
    let owners: Vec<String> = found.values().filter_map(owner).collect();
    if owners.is_empty() {
        return Ok(found);
    }
    let owners = read(connection, (shard, tenant), &owners, known_at).await?;
    for device in found.values_mut() {
        if let Some(owner) = device.alias_of.take() {
            *device = owners.get(&owner).cloned().unwrap_or_default();
            device.alias_of = Some(owner);
        }
    }
    Ok(found)
}

async fn read(
    connection: &mut PgConnection,
    (shard, tenant): (i16, &str),
    ids: &[String],
    known_at: Option<DateTime<Utc>>,
) -> Result<HashMap<String, Device>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(include_str!("events.sql"))
        .bind(shard)
        .bind(tenant)
        .bind(ids)
        .bind(known_at)
        .fetch_all(connection)
        .await?;
    let mut found: HashMap<String, Device> = HashMap::new();
    for Row { source_id, r#type, occurred_at, recorded_at, data } in rows {
        // What cannot be read is an error: nobody is assigned by a guess.
        let said = serde_json::from_str(data.as_deref().unwrap_or("null"))
            .map_err(|error| sqlx::Error::Decode(error.into()))?;
        let device = found.entry(source_id).or_default();
        device.take(&r#type, (occurred_at, recorded_at), said);
    }
    Ok(found)
}
