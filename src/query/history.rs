//! A patient's readings over time.
//!
//! Guarantees that pages follow each other without a gap or a repeat, also while
//! readings arrive: the cursor is a place in the order, not a number of rows. Reads
//! the log, so it is never behind.

use chrono::{DateTime, Utc};
use sqlx::FromRow;

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

/// A page of readings, of one device only if it is named.
pub async fn page(
    log: &Log,
    tenant: &str,
    patient_id: &str,
    range: &Range,
    after: Option<&Place>,
    device: Option<&str>,
    limit: i64,
) -> Result<Vec<Newest>, sqlx::Error> {
    let vitals: Vec<&str> = match &*range.vitals {
        [] => Vital::all().map(Vital::name).collect(),
        some => some.iter().map(|v| v.name()).collect(),
    };
    let from = after.map_or(range.from, |place| range.from.max(place.measured_at));
    sqlx::query_as(include_str!("history_page.sql"))
        .bind(log.shard_of(tenant, patient_id))
        .bind(tenant)
        .bind(patient_id)
        .bind(vitals)
        .bind(from)
        .bind(range.to)
        .bind(after.map(|place| place.measured_at))
        .bind(after.map(|place| place.vital.name()))
        .bind(after.map(|place| &*place.device_id))
        .bind(device)
        .bind(limit)
        .fetch_all(log.pool())
        .await
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

/// Buckets of one vital that have readings, of one device only if it is named.
#[allow(clippy::too_many_arguments, reason = "a question with this many parts")]
pub async fn buckets(
    log: &Log,
    tenant: &str,
    patient_id: &str,
    vital: Vital,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
    every_seconds: f64,
    device: Option<&str>,
    limit: i64,
) -> Result<Vec<Bucket>, sqlx::Error> {
    sqlx::query_as(include_str!("history_buckets.sql"))
        .bind(log.shard_of(tenant, patient_id))
        .bind(tenant)
        .bind(patient_id)
        .bind(vital.name())
        .bind(from)
        .bind(to)
        .bind(every_seconds)
        .bind(device)
        .bind(limit)
        .fetch_all(log.pool())
        .await
}
