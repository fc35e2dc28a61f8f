//! Replaying a patient's events in the order in which they were true.
//!
//! Guarantees constant memory: a page is held, never the history. Two events of one
//! instant come in the order in which they were recorded.

use async_stream::try_stream;
use chrono::{DateTime, Utc};
use futures_util::Stream;

use super::END_OF_TIME;
use super::state::settle;
use crate::event::Recorded;
use crate::log::{Log, decode_events};

/// Events held in memory at one time.
const EVENTS_PER_PAGE_MAX: i64 = 5_000;

/// Which events are wanted.
#[derive(Clone, Debug)]
pub struct Range {
    /// From here on.
    pub from: DateTime<Utc>,
    /// Until here, not included.
    pub to: DateTime<Utc>,
    /// Only what had been recorded by then.
    pub known_at: Option<DateTime<Utc>>,
}

impl Default for Range {
    fn default() -> Range {
        Range { from: DateTime::UNIX_EPOCH, to: END_OF_TIME, known_at: None }
    }
}

/// The patient's events.
pub fn replay(
    log: Log,
    tenant: String,
    patient_id: String,
    range: Range,
) -> impl Stream<Item = Result<Recorded, sqlx::Error>> {
    try_stream! {
        let shard = log.shard_of(&tenant, &patient_id);
        if let Some(known_at) = range.known_at {
            settle(&log, shard, known_at).await?;
        }
        let (mut at, mut position) = (range.from, i64::MIN);
        loop {
            let rows = sqlx::query(include_str!("replay_page.sql"))
                .bind(shard)
                .bind(&tenant)
                .bind(&patient_id)
                .bind(at)
                .bind(range.to)
                .bind(range.known_at.unwrap_or(END_OF_TIME))
                .bind(at)
                .bind(position)
                .bind(EVENTS_PER_PAGE_MAX)
                .fetch_all(log.pool())
                .await?;
            let page = decode_events(shard, &rows)?;
            let Some(last) = page.last() else { break };
            (at, position) = (last.event.occurred_at, last.position);
            let full = page.len() as i64 == EVENTS_PER_PAGE_MAX;
            for event in page {
                yield event;
            }
            if !full {
                break;
            }
        }
    }
}
