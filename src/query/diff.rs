//! What was known at a moment, against what is known of that moment now.
//!
//! Guarantees that both sides and what lies between them are of one snapshot. Readings
//! that differ are looked for in a stretch of time before the moment, page by page;
//! states and alerts are whole. Does not say why something came late.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

use super::alerts::Alert;
use super::history::HistoryCursor;
use super::moment::Moment;
use super::reach::{Reach, ReadingsNeeded, Unanswered};
use super::state::{Newest, PatientState, is_known, past};
use super::{AnswerPart, BEGIN_SNAPSHOT, fresh};
use crate::log::Log;

/// What is compared.
#[derive(Clone, Debug)]
pub struct DiffQuery {
    /// Whose patient.
    pub tenant: String,
    /// Which patient.
    pub patient_id: String,
    /// Of one device only, if it is named.
    pub device: Option<String>,
    /// The moment.
    pub as_of: DateTime<Utc>,
    /// What is known now is compared with what was known then.
    pub known_at: DateTime<Utc>,
    /// Readings measured from here on are looked at.
    pub from: DateTime<Utc>,
    /// Only those after this cursor.
    pub after: Option<HistoryCursor>,
    /// So many of them at most.
    pub limit: i64,
}

/// A reading that was not known then, or is not believed any more.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct Changed {
    /// The reading.
    #[sqlx(flatten)]
    pub reading: Newest,
    /// When the log learned that it was entered in error.
    pub retracted_at: Option<DateTime<Utc>>,
    /// Why, as who retracted it said.
    pub reason: Option<String>,
}

/// How an alert differs between what was known then and what is known now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertChange {
    /// It stood at the moment, and that was not known then.
    Added,
    /// It was thought to stand, and is now known not to have.
    Removed,
    /// It stood, and somebody's answer to it became known later.
    Acknowledged,
    /// It would have been raised, had its reading come in time.
    Missed,
}

impl AlertChange {
    /// As on the wire.
    pub fn name(self) -> &'static str {
        match self {
            AlertChange::Added => "added",
            AlertChange::Removed => "removed",
            AlertChange::Acknowledged => "acknowledged",
            AlertChange::Missed => "missed",
        }
    }
}

/// The difference.
#[derive(Clone, Debug)]
pub struct Diff {
    /// As it was known then; its moment is settled.
    pub then: PatientState,
    /// As it is known now.
    pub now: PatientState,
    /// Oldest first.
    pub readings: Vec<Changed>,
    /// Oldest first.
    pub alerts: Vec<(AlertChange, Alert)>,
}

/// The difference, or `None` when nobody ever heard of the patient.
pub async fn diff(log: &Log, question: &DiffQuery) -> Result<Option<Diff>, Unanswered> {
    let DiffQuery { tenant, patient_id, device, .. } = question;
    let shard = log.shard_of(tenant, patient_id);
    let known_at = log.settle(shard, question.known_at).await?;
    if !is_known(log, tenant, patient_id).await? {
        return Ok(None);
    }
    // What late readings would have raised is part of what is known now.
    let fresh = fresh(log, &[shard], &[AnswerPart::Said]).await?;
    let then = Moment { as_of: Some(question.as_of), known_at: Some(known_at) };
    let now = Moment { known_at: None, ..then };
    let reach = |what| Reach { tenant, patient_id, vitals: &[], device: device.as_deref(), what };
    let reaches = [
        reach(ReadingsNeeded::Newest(then)),
        reach(ReadingsNeeded::Newest(now)),
        reach(ReadingsNeeded::All(question.from, question.as_of)),
    ];
    for reach in &reaches {
        reach.check(log).await?;
    }
    let mut tx = log.pool().begin_with(BEGIN_SNAPSHOT).await?;
    let device = device.as_deref();
    let then = past(&mut tx, shard, tenant, patient_id, then, device).await?;
    let mut now = past(&mut tx, shard, tenant, patient_id, now, device).await?;
    now.fresh = fresh;
    let readings = readings(&mut tx, shard, question, known_at).await?;
    let missed = missed(&mut tx, shard, question, known_at).await?;
    tx.rollback().await?;
    for reach in &reaches {
        reach.check(log).await?;
    }
    let alerts = alerts(&then.alerts, &now.alerts, missed);
    Ok(Some(Diff { then, now, readings, alerts }))
}

async fn readings(
    connection: &mut PgConnection,
    shard: i16,
    question: &DiffQuery,
    known_at: DateTime<Utc>,
) -> Result<Vec<Changed>, sqlx::Error> {
    let after = question.after.as_ref();
    sqlx::query_as(include_str!("diff_readings.sql"))
        .bind(shard)
        .bind(&question.tenant)
        .bind(&question.patient_id)
        .bind(after.map_or(question.from, |cursor| question.from.max(cursor.measured_at)))
        .bind(question.as_of)
        .bind(known_at)
        .bind(after.map(|cursor| cursor.measured_at))
        .bind(after.map(|cursor| cursor.vital.name()))
        .bind(after.map(|cursor| &*cursor.device_id))
        .bind(&question.device)
        .bind(question.limit)
        .fetch_all(connection)
        .await
}

async fn missed(
    connection: &mut PgConnection,
    shard: i16,
    question: &DiffQuery,
    known_at: DateTime<Utc>,
) -> Result<Vec<Alert>, sqlx::Error> {
    let mut missed: Vec<Alert> = sqlx::query_as(include_str!("diff_missed.sql"))
        .bind(shard)
        .bind(&question.tenant)
        .bind(&question.patient_id)
        .bind(question.from)
        .bind(question.as_of)
        .bind(known_at)
        .fetch_all(connection)
        .await?;
    missed.retain(|alert| question.device.as_ref().is_none_or(|only| *only == alert.device_id));
    Ok(missed)
}

fn alerts(then: &[Alert], now: &[Alert], missed: Vec<Alert>) -> Vec<(AlertChange, Alert)> {
    let find = |among: &[Alert], alert: &Alert| among.iter().find(|a| a.id == alert.id).cloned();
    let of_now = now.iter().filter_map(|alert| match find(then, alert) {
        None => Some((AlertChange::Added, alert.clone())),
        Some(before) if before.acknowledged != alert.acknowledged => {
            Some((AlertChange::Acknowledged, alert.clone()))
        }
        Some(_) => None,
    });
    let gone = then.iter().filter(|alert| find(now, alert).is_none());
    let gone = gone.map(|alert| (AlertChange::Removed, alert.clone()));
    let missed = missed.into_iter().map(|alert| (AlertChange::Missed, alert));
    let mut all: Vec<_> = of_now.chain(gone).chain(missed).collect();
    all.sort_by_key(|(_, alert)| (alert.since, alert.id));
    all
}
