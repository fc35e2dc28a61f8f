//! Silences: pages held back for a while, by somebody, for a reason.
//!
//! Guarantees that a silence is an event in every shard, like a rule, that it ends, and
//! that what it held back is on the record and can be listed. High priority is never
//! held back: the rules see to that, whatever a silence says.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::Row;
use uuid::Uuid;

use super::evaluate::SILENCE_SET;
use super::registry::Silence;
use super::versions::tenants_event;
use crate::event::NO_PATIENT;
use crate::log::{AppendError, Log, append};

/// Alerts of a receipt, at most.
const HELD_BACK_MAX: i64 = 1_000;

/// Every silence of a tenant as it stands, newest first.
pub async fn all(log: &Log, tenant: &str) -> Result<Vec<Silence>, sqlx::Error> {
    let rows = sqlx::query(
        "select data::text from event where shard = $1 and tenant = $2 and patient_id = $3 \
         and vital is null and type = $4 order by position",
    )
    .bind(log.shard_of(tenant, NO_PATIENT))
    .bind(tenant)
    .bind(NO_PATIENT)
    .bind(SILENCE_SET)
    .fetch_all(log.pool())
    .await?;
    let mut all: Vec<Silence> = Vec::new();
    for row in rows {
        // We wrote it.
        if let Ok(silence) = serde_json::from_str::<Silence>(row.try_get(0)?) {
            all.retain(|other| other.id != silence.id);
            all.insert(0, silence);
        }
    }
    all.sort_by_key(|silence| std::cmp::Reverse(silence.from));
    Ok(all)
}

/// Begins a silence, or sets another end, in every shard.
pub async fn set(
    log: &Log,
    tenant: &str,
    silence: &Silence,
    by: &str,
    now: DateTime<Utc>,
) -> Result<(), AppendError> {
    let data = serde_json::to_string(silence).ok();
    let events = [tenants_event(tenant, SILENCE_SET, by, now, data)];
    log.ensure_partitions(std::iter::once(now)).await?;
    let mut tx = log.pool().begin().await?;
    for shard in log.shards() {
        append(&mut tx, shard, &events).await?;
    }
    tx.commit().await?;
    for shard in log.shards() {
        log.wake().appended(shard, &events);
    }
    Ok(())
}

/// What a silence held back, oldest first: the data of the alert events.
pub async fn held_back(
    log: &Log,
    tenant: &str,
    silence: Uuid,
) -> Result<Vec<(String, Value)>, sqlx::Error> {
    let rows: Vec<(String, String)> = sqlx::query_as(include_str!("held_back.sql"))
        .bind(log.shards().collect::<Vec<i16>>())
        .bind(tenant)
        .bind(silence.to_string())
        .bind(HELD_BACK_MAX)
        .fetch_all(log.pool())
        .await?;
    let read =
        |(patient, data): (String, String)| Some((patient, serde_json::from_str(&data).ok()?));
    Ok(rows.into_iter().filter_map(read).collect())
}
