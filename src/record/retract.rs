//! Corrections: a reading that was entered in error.
//!
//! Guarantees that a reading is retracted once, whoever says it how often and at the
//! same moment, and that the reading itself stays in the log: what was known before
//! the retraction can still be asked for. Does not free its place: the same patient,
//! vital, device and time is the same reading for ever, retracted or not.

use chrono::{DateTime, Utc};

use crate::event::{Event, READING_RETRACTED, RetractionData};
use crate::log::partition::Span;
use crate::log::{AppendError, Log, append, in_turn};
use crate::vital::Vital;

/// Which reading is retracted, by whom, and why.
#[derive(Clone, Debug)]
pub struct Retraction {
    /// Whose.
    pub patient_id: String,
    /// What was measured.
    pub vital: Vital,
    /// What measured it.
    pub device_id: String,
    /// When it was measured.
    pub measured_at: DateTime<Utc>,
    /// Why it is wrong.
    pub reason: String,
    /// Who says so.
    pub by: String,
}

/// A reading that is retracted.
#[derive(Clone, Debug, PartialEq)]
pub struct Retracted {
    /// The value that no longer counts.
    pub value: f64,
    /// Who said so first.
    pub by: String,
    /// Why, in their words.
    pub reason: String,
    /// When the log learned it; `known_at` before this still uses the reading.
    pub retracted_at: DateTime<Utc>,
    /// Whether it was retracted before.
    pub again: bool,
}

/// Why nothing was retracted.
#[derive(Debug, thiserror::Error)]
pub enum RetractError {
    /// The log refused it, or is gone.
    #[error("{0}")]
    Append(#[from] AppendError),
    /// There is no such reading.
    #[error("there is no such reading")]
    Unknown,
    /// Its month takes no events.
    #[error(
        "{0} is archived and takes no corrections: have it brought back with vitals import \
         --format parquet {file}, and retract again",
        file = .0.file_name()
    )]
    Archived(Span),
}

impl From<sqlx::Error> for RetractError {
    fn from(error: sqlx::Error) -> RetractError {
        RetractError::Append(AppendError::Database(error))
    }
}

/// A row of `retract.sql`.
#[derive(sqlx::FromRow)]
struct FoundReading {
    position: i64,
    value: f64,
    recorded_at: Option<DateTime<Utc>>,
    source_id: Option<String>,
    reason: Option<String>,
}

/// Retracts a reading: an event at the reading's own time.
pub async fn retract(
    log: &Log,
    tenant: &str,
    retraction: &Retraction,
) -> Result<Retracted, RetractError> {
    let shard = log.shard_of(tenant, &retraction.patient_id);
    let mut tx = log.pool().begin().await?;
    // Who retracts the same reading at the same moment waits here, and finds it done.
    in_turn(&mut tx, &format!("retract/{tenant}/{}", retraction.patient_id)).await?;
    let found: Option<FoundReading> = sqlx::query_as(include_str!("retract.sql"))
        .bind(shard)
        .bind(tenant)
        .bind(&retraction.patient_id)
        .bind(retraction.vital.name())
        .bind(retraction.measured_at)
        .bind(&retraction.device_id)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(found) = found else {
        tx.rollback().await?;
        return Err(missing(log, retraction).await?.unwrap_or(RetractError::Unknown));
    };
    if let FoundReading { recorded_at: Some(at), source_id: Some(by), reason, .. } = found {
        tx.rollback().await?;
        let reason = reason.unwrap_or_default();
        return Ok(Retracted { value: found.value, by, reason, retracted_at: at, again: true });
    }
    let events = [event(tenant, retraction, found.position)?];
    let appended = match append(&mut tx, shard, &events).await {
        Err(AppendError::Archived) => {
            tx.rollback().await?;
            return Err(missing(log, retraction).await?.unwrap_or(AppendError::Archived.into()));
        }
        appended => appended?,
    };
    tx.commit().await?;
    log.wake().appended(shard, &events);
    Ok(Retracted {
        value: found.value,
        by: retraction.by.clone(),
        reason: retraction.reason.clone(),
        retracted_at: appended.recorded_at,
        again: false,
    })
}

/// The error of a reading that may be gone because its month is archived.
async fn missing(log: &Log, retraction: &Retraction) -> Result<Option<RetractError>, sqlx::Error> {
    log.reload_archived().await?;
    let span = log.archived().at(retraction.measured_at);
    Ok(span.map(RetractError::Archived))
}

fn event(tenant: &str, retraction: &Retraction, position: i64) -> Result<Event, sqlx::Error> {
    let data = RetractionData {
        v: 1,
        vital: retraction.vital,
        device_id: retraction.device_id.clone(),
        measured_at: retraction.measured_at,
        reading_position: position,
        reason: retraction.reason.clone(),
        reassignment: None,
        more: false,
    };
    let data = serde_json::to_string(&data).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let stream = (tenant, &*retraction.patient_id);
    let by = &*retraction.by;
    Ok(Event::non_reading(READING_RETRACTED, stream, by, retraction.measured_at, data))
}
