//! Replaying a patient's events in the order in which they were true.
//!
//! Guarantees constant memory: a page is held, never the history. Two events of one
//! instant come in the order in which they were recorded.

use async_stream::try_stream;
use chrono::{DateTime, Utc};
use futures_util::Stream;
use sqlx::Row;

use super::reach::{Reach, ReadingsNeeded, Unanswered};
use super::{BEGIN_SNAPSHOT, END_OF_TIME};
use crate::event::Recorded;
use crate::log::{Log, answered, decode_events};

/// Events held in memory at one time.
const EVENTS_PER_PAGE_MAX: i64 = 5_000;

/// Which events are wanted.
#[derive(Clone, Debug)]
pub struct ReplayedRange {
    /// From here on.
    pub from: DateTime<Utc>,
    /// Until here, not included.
    pub to: DateTime<Utc>,
    /// Only what had been recorded by then.
    pub known_at: Option<DateTime<Utc>>,
    /// Only what comes after this place: a time, and a position.
    pub after: Option<(DateTime<Utc>, i64)>,
}

impl Default for ReplayedRange {
    fn default() -> ReplayedRange {
        ReplayedRange { from: DateTime::UNIX_EPOCH, to: END_OF_TIME, known_at: None, after: None }
    }
}

/// Says no when the events are not all in the database: for whoever has to know before
/// the first one comes.
pub async fn check(
    log: &Log,
    tenant: &str,
    patient_id: &str,
    range: ReplayedRange,
) -> Result<(), Unanswered> {
    let what = ReadingsNeeded::All(range.from, range.to);
    Reach { tenant, patient_id, vitals: &[], device: None, what }.check(log).await
}

/// The patient's events.
pub fn replay(
    log: Log,
    tenant: String,
    patient_id: String,
    mut range: ReplayedRange,
) -> impl Stream<Item = Result<Recorded, Unanswered>> {
    try_stream! {
        let shard = log.shard_of(&tenant, &patient_id);
        if let Some(known_at) = range.known_at {
            range.known_at = Some(log.settle(shard, known_at).await?);
        }
        let (mut at, mut position) = match range.after {
            Some((at, position)) if at >= range.from => (at, position),
            _ => (range.from, i64::MIN),
        };
        let mut of_a_series: Option<i64> = None;
        loop {
            let mut tx = log.pool().begin_with(BEGIN_SNAPSHOT).await?;
            let page = sqlx::query(include_str!("replay_page.sql"))
                .bind(shard)
                .bind(&tenant)
                .bind(&patient_id)
                .bind(at)
                .bind(range.to)
                .bind(range.known_at.unwrap_or(END_OF_TIME))
                .bind(at)
                .bind(position)
                .bind(EVENTS_PER_PAGE_MAX)
                .bind(of_a_series)
                .fetch_all(&mut *tx);
            let rows = answered(page).await?;
            tx.rollback().await?;
            let is_cut = rows.last().map_or(Ok(false), |row| row.try_get("is_cut"));
            // A month may leave between two pages.
            check(&log, &tenant, &patient_id, ReplayedRange { from: at, ..range.clone() }).await?;
            let page = decode_events(shard, &rows)?;
            let Some(last) = page.last() else { break };
            (at, position) = (last.event.occurred_at, last.position);
            let full = page.len() as i64 == EVENTS_PER_PAGE_MAX;
            // Where some series had more than their share, the next page is one of any.
            of_a_series = (!full).then_some(EVENTS_PER_PAGE_MAX);
            let is_over = !full && !is_cut.map_err(Unanswered::Database)?;
            for event in page {
                yield event;
            }
            if is_over {
                break;
            }
        }
    }
}
