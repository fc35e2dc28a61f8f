//! A patient's readings over time.
//!
//! Guarantees that pages follow each other without a gap or a repeat, also while
//! readings arrive: the cursor is a place in the order, not a number of rows. Reads
//! the log, so it is never behind.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

use super::BEGIN_SNAPSHOT;
use super::reach::{Reach, ReadingsNeeded, Unanswered};
use super::state::Newest;
use crate::log::Log;
use crate::vital::Vital;

/// A place in the order of a history.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryCursor {
    /// When the last reading of the page before was measured.
    pub measured_at: DateTime<Utc>,
    /// Its vital.
    pub vital: Vital,
    /// Its device.
    pub device_id: String,
}

/// Which readings are wanted.
#[derive(Clone, Debug)]
pub struct TimeRange {
    /// All when empty.
    pub vitals: Vec<Vital>,
    /// From here on.
    pub from: DateTime<Utc>,
    /// Until here, not included.
    pub to: DateTime<Utc>,
}

/// Whose readings are wanted, and which.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// Whose patient.
    pub tenant: String,
    /// Which patient.
    pub patient_id: String,
    /// Of which vitals and times.
    pub range: TimeRange,
    /// Of one device only, if it is named.
    pub device: Option<String>,
}

impl HistoryQuery {
    /// Whether a vital's readings by a device are wanted.
    pub(super) fn wants(&self, vital: Vital, device_id: &str) -> bool {
        (self.range.vitals.is_empty() || self.range.vitals.contains(&vital))
            && self.device.as_deref().is_none_or(|device| device == device_id)
    }

    /// The names of the vitals that are wanted.
    pub(super) fn names(&self) -> Vec<&'static str> {
        match &*self.range.vitals {
            [] => Vital::all().map(Vital::name).collect(),
            some => some.iter().map(|vital| vital.name()).collect(),
        }
    }

    /// What an answer from `from` on reaches back to.
    pub fn reach(&self, from: DateTime<Utc>) -> Reach<'_> {
        Reach {
            tenant: &self.tenant,
            patient_id: &self.patient_id,
            vitals: &self.range.vitals,
            device: self.device.as_deref(),
            what: ReadingsNeeded::All(from, self.range.to),
        }
    }
}

/// The cursor of a reading.
pub fn cursor_of(reading: &Newest) -> HistoryCursor {
    let device_id = reading.device_id.clone();
    HistoryCursor { measured_at: reading.measured_at, vital: reading.vital, device_id }
}

/// A page of readings.
pub async fn page(
    log: &Log,
    question: &HistoryQuery,
    after: Option<&HistoryCursor>,
    limit: i64,
) -> Result<Vec<Newest>, Unanswered> {
    let range = &question.range;
    let from = after.map_or(range.from, |cursor| range.from.max(cursor.measured_at));
    let reach = question.reach(from);
    reach.check(log).await?;
    let mut tx = log.pool().begin_with(BEGIN_SNAPSHOT).await?;
    let mut rows = first_of(&mut tx, log, question, after, (limit, None)).await?;
    // The series have not had their share of it each: then what is left of it from any.
    while (rows.len() as i64) < limit
        && let Some(last) = rows.last().filter(|row| row.is_cut)
    {
        let (after, left) = (cursor_of(&last.reading), limit - rows.len() as i64);
        rows.extend(first_of(&mut tx, log, question, Some(&after), (left, Some(left))).await?);
    }
    tx.rollback().await?;
    reach.check(log).await?;
    Ok(rows.into_iter().map(|row| row.reading).collect())
}

/// A row of `history_page.sql`.
#[derive(FromRow)]
struct PageRow {
    #[sqlx(flatten)]
    reading: Newest,
    is_cut: bool,
}

async fn first_of(
    connection: &mut PgConnection,
    log: &Log,
    question: &HistoryQuery,
    after: Option<&HistoryCursor>,
    (limit, of_a_series): (i64, Option<i64>),
) -> Result<Vec<PageRow>, sqlx::Error> {
    let range = &question.range;
    let from = after.map_or(range.from, |cursor| range.from.max(cursor.measured_at));
    sqlx::query_as(include_str!("history_page.sql"))
        .bind(log.shard_of(&question.tenant, &question.patient_id))
        .bind(&question.tenant)
        .bind(&question.patient_id)
        .bind(question.names())
        .bind(from)
        .bind(range.to)
        .bind(after.map(|cursor| cursor.measured_at))
        .bind(after.map(|cursor| cursor.vital.name()))
        .bind(after.map(|cursor| &*cursor.device_id))
        .bind(&question.device)
        .bind(limit)
        .bind(of_a_series)
        .fetch_all(connection)
        .await
}
