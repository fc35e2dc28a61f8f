//! Alerts: those that stand, and those that stood.
//!
//! Guarantees that only the tenant's own are shown, newest first. Does not page, and does
//! not answer one, which the room `record` does.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::{AnswerPart, fresh};
use crate::event::Priority;
use crate::log::Log;
use crate::vital::Vital;

/// What is told of one alert, at most.
const SAID_MAX: i64 = 200;

/// How an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertState {
    /// Somebody should come.
    Active,
    /// Its rule is on trial no longer, and it stood when that ended.
    Ended,
    /// A reading, or a person, has cleared it.
    Cleared,
    /// Its reading came too late to page anybody.
    Missed,
    /// Its reading was corrected.
    Retracted,
}

impl AlertState {
    /// All of them.
    pub const ALL: [AlertState; 5] = [
        AlertState::Active,
        AlertState::Ended,
        AlertState::Cleared,
        AlertState::Missed,
        AlertState::Retracted,
    ];

    /// As it is stored and told.
    pub fn name(self) -> &'static str {
        match self {
            AlertState::Active => "active",
            AlertState::Ended => "ended",
            AlertState::Cleared => "cleared",
            AlertState::Missed => "missed",
            AlertState::Retracted => "retracted",
        }
    }
}

/// A state in the table that this version does not know.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is no state of an alert that this version knows")]
pub struct UnknownAlertState(String);

impl TryFrom<String> for AlertState {
    type Error = UnknownAlertState;

    fn try_from(name: String) -> Result<AlertState, UnknownAlertState> {
        let known = AlertState::ALL.into_iter().find(|state| state.name() == name);
        known.ok_or(UnknownAlertState(name))
    }
}

/// An alert and what became of it.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct Alert {
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub patient_id: String,
    /// How it stands.
    #[sqlx(try_from = "String")]
    pub state: AlertState,
    /// The rule's event name.
    pub event: String,
    /// IEC 60601-1-8.
    #[sqlx(try_from = "String")]
    pub priority: Priority,
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
    /// When the clearing reading was measured, or `since`, if its clock says it was before.
    pub cleared_since: Option<DateTime<Utc>>,
    /// Its value.
    pub cleared_value: Option<f64>,
    /// JSON text: by, subject, via, at, note.
    pub acknowledged: Option<String>,
}

/// Which alerts are wanted.
#[derive(Clone, Debug, Default)]
pub struct AlertFilter {
    /// Those that stand so; all when left out.
    pub state: Option<AlertState>,
    /// One patient's.
    pub patient_id: Option<String>,
    /// Only these, if any are named.
    pub patients: Option<Vec<String>>,
    /// Only those after this place in the list.
    pub after: Option<(DateTime<Utc>, Uuid)>,
    /// How many at most.
    pub limit: i64,
}

/// A page of alerts, newest first, and whether it is fresh.
pub async fn list(
    log: &Log,
    tenant: &str,
    filter: &AlertFilter,
) -> Result<(Vec<Alert>, bool), sqlx::Error> {
    let shards: Vec<i16> = match &filter.patient_id {
        Some(patient_id) => vec![log.shard_of(tenant, patient_id)],
        None => log.shards().collect(),
    };
    let fresh = fresh(log, &shards, &[AnswerPart::Alerts]).await?;
    let (after_since, after_id) = filter.after.unzip();
    let alerts = sqlx::query_as(
        "select *, vital::text as vital from alert \
         where shard = any($1) and tenant = $2 \
           and ($3::text is null or patient_id = $3) \
           and ($4::text is null or state = $4) \
           and ($5::timestamptz is null or (since, id) < ($5, $6)) \
           and ($8::text[] is null or patient_id = any($8)) \
         order by since desc, id desc limit $7",
    )
    .bind(shards)
    .bind(tenant)
    .bind(&filter.patient_id)
    .bind(filter.state.map(AlertState::name))
    .bind(after_since)
    .bind(after_id)
    .bind(filter.limit)
    .bind(&filter.patients)
    .fetch_all(log.pool())
    .await?;
    Ok((alerts, fresh))
}

/// An alert, and the reading that raised it: its value, device and times.
pub async fn get(log: &Log, tenant: &str, id: Uuid) -> Result<Option<Alert>, sqlx::Error> {
    let shards: Vec<i16> = log.shards().collect();
    fresh(log, &shards, &[AnswerPart::Alerts]).await?;
    sqlx::query_as(
        "select *, vital::text as vital from alert where shard = any($1) and tenant = $2 and id = $3",
    )
    .bind(shards)
    .bind(tenant)
    .bind(id)
    .fetch_optional(log.pool())
    .await
}

/// Something that was said of an alert.
#[derive(Clone, Debug)]
pub struct AlertEvent {
    /// The event's type.
    pub kind: String,
    /// What it says.
    pub data: serde_json::Value,
    /// When it was true.
    pub at: DateTime<Utc>,
    /// When the log learned it.
    pub recorded_at: DateTime<Utc>,
}

/// Everything that was said of an alert, in order. The log is asked.
pub async fn said(log: &Log, tenant: &str, alert: &Alert) -> Result<Vec<AlertEvent>, sqlx::Error> {
    let rows: Vec<(String, String, DateTime<Utc>, DateTime<Utc>)> =
        sqlx::query_as(include_str!("alert_said.sql"))
            .bind(log.shard_of(tenant, &alert.patient_id))
            .bind(tenant)
            .bind(&alert.patient_id)
            .bind(alert.id.to_string())
            .bind(SAID_MAX)
            .fetch_all(log.pool())
            .await?;
    let said = |(kind, data, at, recorded_at): (String, String, _, _)| AlertEvent {
        kind,
        data: serde_json::from_str(&data).unwrap_or_default(),
        at,
        recorded_at,
    };
    Ok(rows.into_iter().map(said).collect())
}
