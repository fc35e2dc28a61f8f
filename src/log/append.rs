//! Appending to one shard.
//!
//! Guarantees that the rows, the head, the commit record and the chain's hash
//! change together or not at all, in the caller's transaction. Does not commit,
//! does not make partitions and does not wake anybody: [`super::Log::append`]
//! does the three for those who need no transaction of their own.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{EVENTS_PER_APPEND_MAX, chain};
use crate::event::Event;

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// PostgreSQL said no, or is gone. Nothing is known to be stored.
    #[error("appending to the log: {0}")]
    Database(#[from] sqlx::Error),
    /// The caller must split its batch.
    #[error("{0} events in one append, {EVENTS_PER_APPEND_MAX} at most")]
    TooMany(usize),
    /// The installation has no such shard.
    #[error("shard {0} does not exist")]
    NoShard(i16),
}

/// What became of a batch.
#[derive(Clone, Debug)]
pub struct Appended {
    /// When the log learned it.
    pub recorded_at: DateTime<Utc>,
    /// One per event, in order: its position, or `None` for a duplicate.
    pub positions: Vec<Option<i64>>,
}

impl Appended {
    /// How many were new.
    pub fn stored(&self) -> usize {
        self.positions.iter().flatten().count()
    }
}

/// Appends `events`, all of patients of `shard`, within the caller's transaction.
///
/// From here until that transaction ends, nobody else appends to this shard. The
/// months of the events must have their partitions.
pub async fn append(
    tx: &mut PgConnection,
    shard: i16,
    events: &[Event],
) -> Result<Appended, AppendError> {
    if events.len() > EVENTS_PER_APPEND_MAX {
        return Err(AppendError::TooMany(events.len()));
    }
    let head = insert(tx, shard, events).await?.ok_or(AppendError::NoShard(shard))?;
    let mut positions = vec![None; events.len()];
    for &position in &head.stored {
        if let Ok(index) = usize::try_from(position - head.position - 1)
            && let Some(slot) = positions.get_mut(index)
        {
            *slot = Some(position);
        }
    }
    let appended = Appended { recorded_at: head.recorded_at, positions };
    if !head.stored.is_empty() {
        record_commit(tx, shard, events, &appended, &head.hash).await?;
    }
    Ok(appended)
}

/// The shard's head as it was locked, and which positions were inserted after it.
#[derive(sqlx::FromRow)]
struct Head {
    position: i64,
    recorded_at: DateTime<Utc>,
    hash: Vec<u8>,
    stored: Vec<i64>,
}

async fn insert(
    tx: &mut PgConnection,
    shard: i16,
    events: &[Event],
) -> Result<Option<Head>, sqlx::Error> {
    fn column<'a, T: 'a>(events: &'a [Event], of: impl Fn(&'a Event) -> T + 'a) -> Vec<T> {
        events.iter().map(of).collect()
    }
    sqlx::query_as(include_str!("append.sql"))
        .bind(shard)
        .bind(column(events, |e| &*e.tenant))
        .bind(column(events, |e| &*e.patient_id))
        .bind(column(events, |e| &*e.kind))
        .bind(column(events, |e| e.vital.map(|v| v.name())))
        .bind(column(events, |e| e.value))
        .bind(column(events, |e| e.quality))
        .bind(column(events, |e| e.suspect))
        .bind(column(events, |e| e.occurred_at))
        .bind(column(events, |e| &*e.source_id))
        .bind(column(events, |e| e.data.as_deref()))
        .fetch_optional(tx)
        .await
}

async fn record_commit(
    tx: &mut PgConnection,
    shard: i16,
    events: &[Event],
    appended: &Appended,
    previous_hash: &[u8],
) -> Result<(), sqlx::Error> {
    let stored = || {
        events
            .iter()
            .zip(&appended.positions)
            .filter_map(|(event, position)| position.map(|p| (p, event)))
    };
    let mut link = chain::Link::new(previous_hash, shard, appended.recorded_at);
    for (position, event) in stored() {
        link.add(position, event);
    }
    let (first, last) = (stored().next(), stored().next_back());
    sqlx::query(include_str!("commit.sql"))
        .bind(shard)
        .bind(first.map(|(p, _)| p))
        .bind(last.map(|(p, _)| p))
        .bind(appended.stored() as i32)
        .bind(stored().map(|(_, e)| e.occurred_at).min())
        .bind(stored().map(|(_, e)| e.occurred_at).max())
        .bind(appended.recorded_at)
        .bind(link.finish().as_slice())
        .execute(tx)
        .await?;
    Ok(())
}
