//! Appending to one shard.
//!
//! Guarantees that the rows, the head, the commit record and the chain's hash
//! change together or not at all, in the caller's transaction. Does not commit,
//! does not make partitions and does not wake anybody: [`super::Log::append`]
//! does the three for those who need no transaction of their own.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{archived, chain};
use crate::event::Event;

/// The most events of one append; readers rely on it to bound their windows. One
/// request on top of a batch that was almost full fits.
pub const EVENTS_PER_APPEND_MAX: usize = 20_000;

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// PostgreSQL said no, or is gone. Nothing is known to be stored.
    #[error("appending to the log: {0}")]
    Database(sqlx::Error),
    /// An event lies in a month that is archived. Nothing of the batch is stored.
    #[error("appending to the log: a month of these events is archived")]
    Archived,
    /// A month's partition is not there, although it was: the log was restored. Nothing of
    /// the batch is stored.
    #[error("appending to the log: the partition of a month of these events is not there")]
    NoPartition,
    /// The caller must split its batch.
    #[error("{0} events in one append, {EVENTS_PER_APPEND_MAX} at most")]
    TooMany(usize),
    /// The installation has no such shard.
    #[error("shard {0} does not exist")]
    NoShard(i16),
}

impl From<sqlx::Error> for AppendError {
    fn from(error: sqlx::Error) -> AppendError {
        // A violated check that has no name is that of the partitions: none takes the row.
        let no_partition = |error: &dyn sqlx::error::DatabaseError| {
            error.is_check_violation() && error.constraint().is_none()
        };
        if archived::refused(&error) {
            AppendError::Archived
        } else if error.as_database_error().is_some_and(no_partition) {
            AppendError::NoPartition
        } else {
            AppendError::Database(error)
        }
    }
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

/// What is believed of a batch. Each reading is stored once either way; a wrong guess
/// costs time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// All of it is new: a plain insert, and a second one if that was wrong.
    New,
    /// Some of it may be stored already.
    Duplicates,
}

/// Appends `events`, all of patients of `shard`, within the caller's transaction.
///
/// From here until that transaction ends, no other append to this shard runs. The
/// months of the events must have their partitions.
pub async fn append(
    tx: &mut PgConnection,
    shard: i16,
    events: &[Event],
) -> Result<Appended, AppendError> {
    append_expecting(Expect::New, tx, shard, events).await
}

/// The same, with what is known of the batch.
pub(super) async fn append_expecting(
    expect: Expect,
    tx: &mut PgConnection,
    shard: i16,
    events: &[Event],
) -> Result<Appended, AppendError> {
    if events.len() > EVENTS_PER_APPEND_MAX {
        return Err(AppendError::TooMany(events.len()));
    }
    let head = insert(expect, tx, shard, events).await?.ok_or(AppendError::NoShard(shard))?;
    let first = head.head + 1;
    let Some(stored) = head.stored else {
        let positions = (first..).take(events.len()).map(Some).collect();
        return Ok(Appended { recorded_at: head.recorded, positions });
    };
    let mut positions = vec![None; events.len()];
    for position in stored {
        if let Ok(index) = usize::try_from(position - first)
            && let Some(slot) = positions.get_mut(index)
        {
            *slot = Some(position);
        }
    }
    Ok(Appended { recorded_at: head.recorded, positions })
}

/// What `append_events` of `migrations/0010_strictly_later.sql` answers.
#[derive(sqlx::FromRow)]
struct Head {
    /// The last position before the batch.
    head: i64,
    recorded: DateTime<Utc>,
    /// The new positions, unless all are new.
    stored: Option<Vec<i64>>,
}

/// What is derived may be derived again; what the log says must be on disk, whatever the
/// connection's own setting is.
const APPEND: &str = "select a.* from append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) a \
     cross join set_config('synchronous_commit', 'on', true)";

async fn insert(
    expect: Expect,
    tx: &mut PgConnection,
    shard: i16,
    events: &[Event],
) -> Result<Option<Head>, sqlx::Error> {
    fn column<'a, T: 'a>(events: &'a [Event], of: impl Fn(&'a Event) -> T + 'a) -> Vec<T> {
        events.iter().map(of).collect()
    }
    let mut digests = Vec::with_capacity(events.len() * chain::DIGEST_BYTES);
    events.iter().for_each(|event| digests.extend(chain::digest(event)));
    sqlx::query_as(APPEND)
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
        .bind(digests)
        .bind(expect == Expect::Duplicates)
        .fetch_optional(tx)
        .await
}
