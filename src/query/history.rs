//! A patient's readings over time.
//!
//! Guarantees that pages follow each other without a gap or a repeat, also while
//! readings arrive: the cursor is a place in the order, not a number of rows. Reads
//! the log, so it is never behind.

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use super::LOOK;
use super::reach::{Reach, Unanswered, What};
use super::rollup;
use super::state::Newest;
use crate::log::Log;
use crate::vital::Vital;

/// A place in the order of a history.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// When the last reading of the page before was measured.
    pub measured_at: DateTime<Utc>,
    /// Its vital.
    pub vital: Vital,
    /// Its device.
    pub device_id: String,
}

/// Which readings are wanted.
#[derive(Clone, Debug)]
pub struct Range {
    /// All when empty.
    pub vitals: Vec<Vital>,
    /// From here on.
    pub from: DateTime<Utc>,
    /// Until here, not included.
    pub to: DateTime<Utc>,
}

/// Whose readings are wanted, and which.
#[derive(Clone, Debug)]
pub struct Question {
    /// Whose patient.
    pub tenant: String,
    /// Which patient.
    pub patient_id: String,
    /// Of which vitals and times.
    pub range: Range,
    /// Of one device only, if it is named.
    pub device: Option<String>,
}

impl Question {
    /// The names of the vitals that are wanted.
    pub(super) fn names(&self) -> Vec<&'static str> {
        match &*self.range.vitals {
            [] => Vital::all().map(Vital::name).collect(),
            some => some.iter().map(|vital| vital.name()).collect(),
        }
    }

    /// What an answer from `from` on reaches back to.
    pub(super) fn reach(&self, from: DateTime<Utc>) -> Reach<'_> {
        Reach {
            tenant: &self.tenant,
            patient_id: &self.patient_id,
            vitals: &self.range.vitals,
            device: self.device.as_deref(),
            what: What::All(from, self.range.to),
        }
    }
}

/// The place of a reading.
pub fn place_of(reading: &Newest) -> Place {
    let device_id = reading.device_id.clone();
    Place { measured_at: reading.measured_at, vital: reading.vital, device_id }
}

/// A page of readings.
pub async fn page(
    log: &Log,
    question: &Question,
    after: Option<&Place>,
    limit: i64,
) -> Result<Vec<Newest>, Unanswered> {
    let range = &question.range;
    let from = after.map_or(range.from, |place| range.from.max(place.measured_at));
    let reach = question.reach(from);
    reach.check(log).await?;
    let mut tx = log.pool().begin_with(LOOK).await?;
    let rows = sqlx::query_as(include_str!("history_page.sql"))
        .bind(log.shard_of(&question.tenant, &question.patient_id))
        .bind(&question.tenant)
        .bind(&question.patient_id)
        .bind(question.names())
        .bind(from)
        .bind(range.to)
        .bind(after.map(|place| place.measured_at))
        .bind(after.map(|place| place.vital.name()))
        .bind(after.map(|place| &*place.device_id))
        .bind(&question.device)
        .bind(limit)
        .fetch_all(&mut *tx)
        .await?;
    tx.rollback().await?;
    reach.check(log).await?;
    Ok(rows)
}

/// A stretch of time, summed up.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct Bucket {
    /// When it begins.
    pub start: DateTime<Utc>,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// The mean value.
    pub avg: f64,
    /// How many readings.
    pub count: i64,
}

/// Buckets of the one vital of a question that have readings, from a time on: of whole
/// minutes and hours from what is folded already, else from the log.
pub async fn buckets(
    log: &Log,
    question: &Question,
    vital: Vital,
    from: DateTime<Utc>,
    every_seconds: f64,
    limit: i64,
) -> Result<Vec<Bucket>, Unanswered> {
    let reach = question.reach(from);
    reach.check(log).await?;
    if let Some(rows) = rollup::buckets(log, question, vital, from, every_seconds, limit).await? {
        reach.check(log).await?;
        return Ok(rows);
    }
    let rows = sqlx::query_as(include_str!("history_buckets.sql"))
        .bind(log.shard_of(&question.tenant, &question.patient_id))
        .bind(&question.tenant)
        .bind(&question.patient_id)
        .bind(vital.name())
        .bind(from)
        .bind(question.range.to)
        .bind(every_seconds)
        .bind(&question.device)
        .bind(limit)
        .fetch_all(log.pool())
        .await?;
    reach.check(log).await?;
    Ok(rows)
}
