//! Alerts: those that stand, and those that stood.
//!
//! Guarantees that only the tenant's own are shown, newest first, and that an
//! acknowledgement is an event like any other. Does not page.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::FromRow;
use uuid::Uuid;

use super::{Part, fresh};
use crate::event::{ALERT_ACKNOWLEDGED, Event};
use crate::log::{AppendError, Log};
use crate::vital::Vital;

/// An alert and what became of it.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct Alert {
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub patient_id: String,
    /// `active`, `cleared` or `missed`.
    pub state: String,
    /// The rule's event name.
    pub event: String,
    /// IEC 60601-1-8.
    pub priority: String,
    /// The rule.
    pub rule: String,
    /// Its version.
    pub rule_version: i32,
    /// What was judged.
    #[sqlx(try_from = "String")]
    pub vital: Vital,
    /// The value that raised it.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// What measured it.
    pub device_id: String,
    /// When that was measured.
    pub since: DateTime<Utc>,
    /// When the log learned that it was raised.
    pub raised_at: DateTime<Utc>,
    /// When the clearing reading was measured.
    pub cleared_since: Option<DateTime<Utc>>,
    /// Its value.
    pub cleared_value: Option<f64>,
    /// JSON text: by, at, note.
    pub acknowledged: Option<String>,
}

/// Which alerts are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `active`, `cleared`, `missed`; all when left out.
    pub state: Option<String>,
    /// One patient's.
    pub patient_id: Option<String>,
    /// Only those after this place in the list.
    pub after: Option<(DateTime<Utc>, Uuid)>,
    /// How many at most.
    pub limit: i64,
}

/// A page of alerts, newest first, and whether it is fresh.
pub async fn list(
    log: &Log,
    tenant: &str,
    filter: &Filter,
) -> Result<(Vec<Alert>, bool), sqlx::Error> {
    let shards: Vec<i16> = match &filter.patient_id {
        Some(patient_id) => vec![log.shard_of(tenant, patient_id)],
        None => log.shards().collect(),
    };
    let fresh = fresh(log, &shards, &[Part::Alerts]).await?;
    let (after_since, after_id) = filter.after.unzip();
    let alerts = sqlx::query_as(
        "select *, vital::text as vital from alert \
         where shard = any($1) and tenant = $2 \
           and ($3::text is null or patient_id = $3) \
           and ($4::text is null or state = $4) \
           and ($5::timestamptz is null or (since, id) < ($5, $6)) \
         order by since desc, id desc limit $7",
    )
    .bind(shards)
    .bind(tenant)
    .bind(&filter.patient_id)
    .bind(&filter.state)
    .bind(after_since)
    .bind(after_id)
    .bind(filter.limit)
    .fetch_all(log.pool())
    .await?;
    Ok((alerts, fresh))
}

/// An alert, and the reading that raised it: its value, device and times.
pub async fn get(log: &Log, tenant: &str, id: Uuid) -> Result<Option<Alert>, sqlx::Error> {
    let shards: Vec<i16> = log.shards().collect();
    fresh(log, &shards, &[Part::Alerts]).await?;
    sqlx::query_as(
        "select *, vital::text as vital from alert where shard = any($1) and tenant = $2 and id = $3",
    )
    .bind(shards)
    .bind(tenant)
    .bind(id)
    .fetch_optional(log.pool())
    .await
}

/// Puts an acknowledgement into the log. The first one counts; the projection keeps
/// that, so two nurses at once need no lock.
pub async fn acknowledge(
    log: &Log,
    tenant: &str,
    alert: &Alert,
    by: &str,
    note: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(), AppendError> {
    let data = json!({
        "v": 1,
        "alertId": alert.id,
        "state": "acknowledged",
        "event": alert.event,
        "acknowledged": { "by": by, "at": now, "note": note },
    });
    let event = Event {
        tenant: tenant.into(),
        patient_id: alert.patient_id.clone(),
        kind: ALERT_ACKNOWLEDGED.to_owned(),
        vital: None,
        value: None,
        quality: None,
        suspect: false,
        occurred_at: now,
        source_id: by.to_owned(),
        data: Some(data.to_string()),
    };
    log.append(log.shard_of(tenant, &alert.patient_id), &[event]).await?;
    Ok(())
}
