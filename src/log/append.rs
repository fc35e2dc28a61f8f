//! Appending to one shard.
//!
//! Guarantees that the rows, the head, the commit record and the chain's hash
//! change together or not at all, in the caller's transaction. Does not commit,
//! does not make partitions and does not wake anybody: [`super::Log::append`]
//! does the three for those who need no transaction of their own.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::head::Mark;
use super::traced::TracedEvents;
use super::{archived, chain, series};
use crate::event::{Event, READING};

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
    /// A reading without a vital or a value, or something else that has one. Nothing of the
    /// batch is stored.
    #[error("event {0} of an append is neither a reading nor none")]
    Malformed(usize),
    /// The log was restored since the numbers of series were learned.
    #[error("appending to the log: it is not the one that was known")]
    Restored,
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
    if readings(events).next().is_none() {
        return append_named(tx, shard, events, Named::default(), Expect::New).await;
    }
    append_naming(tx, shard, events, &[], Expect::New).await.map(|(appended, ..)| appended)
}

/// The same, where the numbers of the series are not known; with them, reading by reading,
/// and the newest commit, in which they are.
pub(super) async fn append_naming(
    tx: &mut PgConnection,
    shard: i16,
    events: &[Event],
    traced: &[TracedEvents],
    expect: Expect,
) -> Result<(Appended, Vec<i32>, Option<Mark>), AppendError> {
    let readings: Vec<&Event> = readings(events).collect();
    let (named, places) = series::distinct(&readings);
    let places: Vec<i32> = places.into_iter().map(|place| place as i32 + 1).collect();
    let columns = Columns::of(events, &places)?;
    let statement = match traced {
        [] => APPEND_NAMING,
        _ => include_str!("append_naming_traced.sql"),
    };
    let query = series::bind_named(sqlx::query_as(statement).bind(shard), &named);
    let query = columns.bind(query).bind(expect == Expect::Duplicates);
    let query = bind_traced(query, traced);
    let found: Option<NamingHead> = query.fetch_optional(tx).await?;
    let found = found.ok_or(AppendError::NoShard(shard))?;
    let of = |place: &i32| found.numbers.get(*place as usize - 1).copied();
    let numbers = places.iter().map(of).collect::<Option<Vec<i32>>>();
    let numbers = numbers.ok_or(AppendError::Restored)?;
    let mark = found.by_position.zip(found.by_recorded);
    let mark = mark.map(|(position, recorded_at)| Mark { position, recorded_at });
    Ok((found.head.appended(events.len())?, numbers, mark))
}

/// What the log calls a measurement.
pub(super) fn readings(events: &[Event]) -> impl Iterator<Item = &Event> {
    events.iter().filter(|event| event.kind == READING)
}

/// The numbers of the series of a batch's readings, in order.
#[derive(Clone, Copy, Default)]
pub(super) struct Named<'a> {
    pub(super) numbers: &'a [i32],
    /// The commit by which they were known, unless all were asked for in this transaction.
    pub(super) by: Option<Mark>,
    /// What of the batch is traced.
    pub(super) traced: &'a [TracedEvents],
}

/// The same, where the numbers of the series are known.
pub(super) async fn append_named(
    tx: &mut PgConnection,
    shard: i16,
    events: &[Event],
    named: Named<'_>,
    expect: Expect,
) -> Result<Appended, AppendError> {
    let columns = Columns::of(events, named.numbers)?;
    let statement = match named.traced {
        [] => APPEND,
        _ => include_str!("append_traced.sql"),
    };
    let query = sqlx::query_as(statement)
        .bind(shard)
        .bind(named.by.map(|mark| mark.position))
        .bind(named.by.map(|mark| mark.recorded_at));
    let query = columns.bind(query).bind(expect == Expect::Duplicates);
    let query = bind_traced(query, named.traced);
    let head: Option<Head> = query.fetch_optional(tx).await?;
    head.ok_or(AppendError::NoShard(shard))?.appended(events.len())
}

/// What `append_events` of `migrations/0002_append.sql` answers.
#[derive(sqlx::FromRow)]
struct Head {
    /// The last position before the batch; none when the log is not the one that was known.
    head: Option<i64>,
    recorded: Option<DateTime<Utc>>,
    /// The new positions, unless all are new.
    stored: Option<Vec<i64>>,
}

impl Head {
    fn appended(self, count: usize) -> Result<Appended, AppendError> {
        let (Some(before), Some(recorded_at)) = (self.head, self.recorded) else {
            return Err(AppendError::Restored);
        };
        let first = before + 1;
        let Some(stored) = self.stored else {
            let positions = (first..).take(count).map(Some).collect();
            return Ok(Appended { recorded_at, positions });
        };
        let mut positions = vec![None; count];
        for position in stored {
            if let Ok(index) = usize::try_from(position - first)
                && let Some(slot) = positions.get_mut(index)
            {
                *slot = Some(position);
            }
        }
        Ok(Appended { recorded_at, positions })
    }
}

/// What `append_naming` answers.
#[derive(sqlx::FromRow)]
struct NamingHead {
    #[sqlx(flatten)]
    head: Head,
    /// Of each series that was named.
    numbers: Vec<i32>,
    by_position: Option<i64>,
    by_recorded: Option<DateTime<Utc>>,
}

const APPEND: &str = "select * from append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
                                                  $13, $14, $15, $16, $17, $18, $19, $20)";

const APPEND_NAMING: &str = "select * from append_naming($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, \
                                                         $12, $13, $14, $15, $16, $17, $18, $19, $20, \
                                                         $21, $22)";

type Bound<'q, T> = sqlx::query::QueryAs<'q, sqlx::Postgres, T, sqlx::postgres::PgArguments>;

/// Binds what is traced, after all else; nothing, where nothing is.
fn bind_traced<'q, T>(query: Bound<'q, T>, traced: &[TracedEvents]) -> Bound<'q, T> {
    if traced.is_empty() {
        return query;
    }
    query
        .bind(traced.iter().map(|of| of.first).collect::<Vec<_>>())
        .bind(traced.iter().map(|of| of.last).collect::<Vec<_>>())
        .bind(traced.iter().map(|of| of.context.stored()).collect::<Vec<_>>())
}

/// A batch as `append_events` takes it.
#[derive(Default)]
struct Columns<'e> {
    /// Of readings.
    ordinals: Vec<i32>,
    series: Vec<i32>,
    values: Vec<f64>,
    qualities: Vec<Option<f32>>,
    suspects: Vec<bool>,
    occurred: Vec<DateTime<Utc>>,
    /// Of those that have one.
    context_ordinals: Vec<i32>,
    contexts: Vec<&'e str>,
    /// Of what is no reading.
    other_ordinals: Vec<i32>,
    others: Vec<&'e Event>,
    /// Of all.
    digests: Vec<u8>,
}

impl<'e> Columns<'e> {
    /// `series`: of each reading its number, or its place.
    fn of(events: &'e [Event], series: &[i32]) -> Result<Columns<'e>, AppendError> {
        if events.len() > EVENTS_PER_APPEND_MAX {
            return Err(AppendError::TooMany(events.len()));
        }
        let mut columns = Columns::default();
        let mut series = series.iter();
        for ((event, ordinal), nth) in events.iter().zip(1..).zip(0..) {
            let malformed = AppendError::Malformed(nth);
            let number = match (&*event.kind, event.vital, event.value) {
                (READING, Some(_), Some(value)) => {
                    let number = *series.next().ok_or(malformed)?;
                    columns.reading(ordinal, event, number, value);
                    Some(number)
                }
                (READING, ..) | (_, Some(_), _) | (_, _, Some(_)) => return Err(malformed),
                _ => {
                    columns.other_ordinals.push(ordinal);
                    columns.others.push(event);
                    None
                }
            };
            columns.digests.extend(chain::digest(event, number));
        }
        Ok(columns)
    }

    fn reading(&mut self, ordinal: i32, event: &'e Event, number: i32, value: f64) {
        self.ordinals.push(ordinal);
        self.series.push(number);
        self.values.push(value);
        self.qualities.push(event.quality);
        self.suspects.push(event.suspect);
        self.occurred.push(event.occurred_at);
        if let Some(context) = &event.data {
            self.context_ordinals.push(ordinal);
            self.contexts.push(context);
        }
    }

    /// From the readings' ordinals to the digests.
    fn bind<'q, T>(&'q self, query: Bound<'q, T>) -> Bound<'q, T> {
        fn column<'a, T>(events: &[&'a Event], of: impl Fn(&'a Event) -> T) -> Vec<T> {
            events.iter().map(|event| of(event)).collect()
        }
        let others = &*self.others;
        query
            .bind(&*self.ordinals)
            .bind(&*self.series)
            .bind(&*self.values)
            .bind(&*self.qualities)
            .bind(&*self.suspects)
            .bind(&*self.occurred)
            .bind(&*self.context_ordinals)
            .bind(&*self.contexts)
            .bind(&*self.other_ordinals)
            .bind(column(others, |e| &*e.tenant))
            .bind(column(others, |e| &*e.patient_id))
            .bind(column(others, |e| &*e.kind))
            .bind(column(others, |e| e.occurred_at))
            .bind(column(others, |e| &*e.source_id))
            .bind(column(others, |e| e.data.as_deref()))
            .bind(&*self.digests)
    }
}
