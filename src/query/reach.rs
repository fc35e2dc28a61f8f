//! How far back an answer reaches: what needs archived readings has none.
//!
//! Guarantees that no answer silently lacks readings that were archived: whoever asks
//! for the past looks here before and after, so that a month which leaves or comes back
//! in between is noticed, too. Alerts and registrations are never archived.

use chrono::{DateTime, TimeDelta, Utc};

use super::END_OF_TIME;
use super::moment::Moment;
use crate::log::Log;
use crate::log::partition::Span;
use crate::vital::Vital;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// PostgreSQL said no, or is gone.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    /// It would need readings of a month that is archived.
    #[error(
        "the answer needs readings of {0}, which is archived: ask for what is later, or have it \
         brought back with vitals import --format parquet {file}",
        file = .0.file_name()
    )]
    Archived(Span),
}

/// Which archived readings an answer might need.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    /// Whose patient.
    pub tenant: &'a str,
    /// Which patient.
    pub patient_id: &'a str,
    /// All when empty.
    pub vitals: &'a [Vital],
    /// One device's readings only.
    pub device: Option<&'a str>,
    /// Which readings.
    pub what: ReadingsNeeded,
}

/// Which readings an answer is made of.
#[derive(Clone, Copy, Debug)]
pub enum ReadingsNeeded {
    /// The newest of a moment.
    Newest(Moment),
    /// All in [from, to).
    All(DateTime<Utc>, DateTime<Utc>),
}

impl Reach<'_> {
    /// Says no when the answer needs what is archived.
    pub async fn check(&self, log: &Log) -> Result<(), Unanswered> {
        let (begin, end, from, measured, recorded) = match self.what {
            // The present is made of what the table has kept.
            ReadingsNeeded::Newest(Moment { as_of: None, known_at: None }) => return Ok(()),
            ReadingsNeeded::Newest(moment) => {
                let as_of = moment.as_of.unwrap_or(END_OF_TIME);
                let known_at = moment.known_at.unwrap_or(END_OF_TIME);
                // Nothing is recorded more than minutes before it was true.
                let end = as_of.min(known_at.checked_add_signed(AHEAD).unwrap_or(as_of));
                // The month that begins at this very moment belongs to it.
                let end = end.checked_add_signed(INSTANT).unwrap_or(end);
                (DateTime::UNIX_EPOCH, end, DateTime::UNIX_EPOCH, as_of, known_at)
            }
            ReadingsNeeded::All(from, to) => {
                (from, to, from, DateTime::UNIX_EPOCH - INSTANT, END_OF_TIME)
            }
        };
        // Almost always nothing is archived, and then there is nothing to look for in it.
        let nothing: bool = sqlx::query_scalar("select not exists (select from archived_month)")
            .fetch_one(log.pool())
            .await?;
        if nothing {
            return Ok(());
        }
        let vitals: Vec<&str> = match self.vitals {
            [] => Vital::all().map(Vital::name).collect(),
            some => some.iter().map(|vital| vital.name()).collect(),
        };
        let partition: Option<String> = sqlx::query_scalar(include_str!("archived.sql"))
            .bind(log.shard_of(self.tenant, self.patient_id))
            .bind(self.tenant)
            .bind(self.patient_id)
            .bind(begin)
            .bind(end)
            .bind(from)
            .bind(measured)
            .bind(recorded)
            .bind(vitals)
            .bind(self.device)
            .fetch_optional(log.pool())
            .await?;
        match partition.and_then(|partition| Span::of_table(&partition)) {
            Some(span) => Err(Unanswered::Archived(span)),
            None => Ok(()),
        }
    }
}

/// As in `state_as_of.sql`.
const AHEAD: TimeDelta = TimeDelta::minutes(10);
const INSTANT: TimeDelta = TimeDelta::microseconds(1);
