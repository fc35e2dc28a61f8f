//! Archiving: write, read back, compare, and only then take out.

use std::pin::pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use sqlx::PgConnection;
use tokio::time::Instant;

use super::columns::ArchiveRow;
use super::file::{About, ArchiveFileError, File, ShardRange, Writer, WrittenFile, hex};
use super::store::{ArchiveStore, PlaceError, StoredObject};
use crate::consumer::{self, Unread};
use crate::log::archive_reader::is_same;
use crate::log::exchange::{self, ExchangeError};
use crate::log::month::{self, MonthTable};
use crate::log::partition::{Span, attached};
use crate::log::{ArchivedMonth, Log, archived_months, heads};

/// How often a month is begun anew because readings came while it was copied.
const ROUNDS_MAX: u32 = 3;
/// How long the consumers are waited for; who is further behind needs more than that.
const UNREAD_MS_MAX: u64 = 5_000;
const UNREAD_POLL_MS: u64 = 100;
/// Rows between two signs of progress.
const ROWS_PER_SIGN: u64 = 10_000;

/// Why a month was not archived. It is as it was, in the database.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ArchiveError {
    #[error("reading what is to be archived: {0}")]
    Database(#[from] sqlx::Error),
    #[error("writing the archive: {0}")]
    File(#[from] ArchiveFileError),
    #[error("writing the archive: {0}")]
    Place(#[from] PlaceError),
    #[error("{0}")]
    Exchange(#[from] ExchangeError),
    #[error(
        "--before {asked}: the month after it is not over; {present} is the latest that can be named"
    )]
    TooLate { asked: Span, present: Span },
    #[error("another process archives, brings back or verifies: wait for it to finish")]
    Busy,
    #[error("{span} cannot be archived yet: {unread}; let vitals serve run until it has caught up")]
    Unread { span: Span, unread: Unread },
    #[error("{location} is there and is not ours to overwrite: {why}")]
    Foreign { location: String, why: String },
    #[error(
        "{location}: shard {shard}, position {position}: what was read back is not what is in the table; nothing was taken out"
    )]
    Differs { location: String, shard: i16, position: i64 },
    #[error(
        "the log has no commit for shard {shard}, positions {first} to {last}: run vitals verify"
    )]
    NoCommit { shard: i16, first: i64, last: i64 },
}

/// What is under way.
#[derive(Clone, Copy, Debug)]
pub enum ArchiveProgress {
    /// So many rows were written of a month.
    Wrote(Span, u64),
    /// So many rows were read back and compared.
    Compared(Span, u64),
}

/// Archives every month that lies wholly before `before` and is full still.
///
/// `done` is told each month when it has left.
pub async fn archive(
    log: &Log,
    place: &ArchiveStore,
    before: Span,
    now: DateTime<Utc>,
    mut progress: impl FnMut(ArchiveProgress),
    mut done: impl FnMut(&ArchivedMonth),
) -> Result<(), ArchiveError> {
    if let Some(present) = Span::of(now, 0)
        && before.since() > present.since()
    {
        return Err(ArchiveError::TooLate { asked: before, present });
    }
    // A connection of its own, closed at the end: it holds a session's lock.
    let mut connection = log.pool().acquire().await?.detach();
    if !exchange::only_one(&mut connection).await? {
        return Err(ArchiveError::Busy);
    }
    exchange::drop_leftovers(&mut connection).await?;
    let archived = archived_months(log.pool()).await?;
    for span in attached(log.pool()).await? {
        let is_archived = archived.iter().any(|month| month.span == span);
        if span.until() > before.since() || is_archived {
            continue;
        }
        let mut rounds = 0;
        loop {
            match one(log, &mut connection, place, span, &mut progress).await {
                Ok(Some(month)) => done(&month),
                Ok(None) => {}
                Err(ArchiveError::Exchange(ExchangeError::Grown(_))) if rounds < ROUNDS_MAX => {
                    rounds += 1;
                    continue;
                }
                Err(error) => return Err(error),
            }
            break;
        }
    }
    Ok(())
}

/// Archives one month. `None` when nothing is in it.
async fn one(
    log: &Log,
    connection: &mut PgConnection,
    place: &ArchiveStore,
    span: Span,
    progress: &mut impl FnMut(ArchiveProgress),
) -> Result<Option<ArchivedMonth>, ArchiveError> {
    let shards: Vec<i16> = log.shards().collect();
    // Before the month is looked at: what comes later is seen when it is taken out.
    let upto = heads(connection).await?;
    let last = exchange::last_positions(connection, span, &shards).await?;
    if last.is_empty() {
        return Ok(None);
    }
    // Who has not read it yet would never read it.
    let until = Instant::now() + Duration::from_millis(UNREAD_MS_MAX);
    while let Some(unread) = consumer::unread(log.pool(), &last).await? {
        if Instant::now() >= until {
            return Err(ArchiveError::Unread { span, unread });
        }
        tokio::time::sleep(Duration::from_millis(UNREAD_POLL_MS)).await;
    }
    let name = span.file_name();
    place.sweep(&name)?;
    let object = place.object(&name);
    check_ours(log, &object, span).await?;
    exchange::make_thin(connection, span, &last).await?;
    let written = write(log, span, &last, &object, progress).await?;
    let file = File::open(object).await?;
    compare(log, &file, span, MonthTable::Partition, progress).await?;
    let mut positions_to = vec![0; shards.len()];
    for (shard, position) in &last {
        if let Some(to) = usize::try_from(*shard).ok().and_then(|at| positions_to.get_mut(at)) {
            *to = *position;
        }
    }
    let month = ArchivedMonth {
        span,
        location: file.location().to_owned(),
        rows: count(written.rows),
        kept: count(written.kept),
        bytes: count(written.bytes),
        file_hash: written.file_hash.to_vec(),
        rows_hash: written.rows_hash.to_vec(),
        positions_to,
    };
    let last_of = |shard| last.iter().find(|(of, _)| *of == shard).map_or(0, |(_, at)| *at);
    let upto = shards.iter().zip(upto).map(|(&shard, head)| (shard, head.max(last_of(shard))));
    exchange::take_out(connection, &month, &upto.collect::<Vec<_>>()).await?;
    Ok(Some(month))
}

fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Refuses to overwrite what another installation, or somebody else, put there.
async fn check_ours(log: &Log, object: &StoredObject, span: Span) -> Result<(), ArchiveError> {
    let location = object.location.clone();
    let foreign = |why: String| ArchiveError::Foreign { location, why };
    match File::open(object.clone()).await {
        Err(ArchiveFileError::Missing(_)) => Ok(()),
        Err(ArchiveFileError::Place(error)) => Err(error.into()),
        Err(error) => Err(foreign(error.to_string())),
        Ok(file) => {
            let ours = log.installation();
            if file.about.installation != ours {
                return Err(foreign(format!(
                    "it is an archive of the installation {}",
                    file.about.installation
                )));
            }
            match file.about.span() == Some(span) {
                true => Ok(()),
                false => Err(foreign(format!("it is the archive of {}", file.about.month))),
            }
        }
    }
}

/// Writes a month up to these positions.
async fn write(
    log: &Log,
    span: Span,
    last: &[exchange::ShardPosition],
    object: &StoredObject,
    progress: &mut impl FnMut(ArchiveProgress),
) -> Result<WrittenFile, ArchiveError> {
    let (mut rows_from, mut kept_from) = (log.pool().acquire().await?, log.pool().acquire().await?);
    let mut writer = Writer::new(object)?;
    let mut of_shards = Vec::with_capacity(last.len());
    for &(shard, to) in last {
        let before = writer.rows();
        let mut first = None;
        {
            let mut rows =
                pin!(month::rows(&mut rows_from, span, MonthTable::Partition, (shard, to)));
            let mut kept = pin!(month::kept_positions(&mut kept_from, span, shard));
            let mut next_kept = kept.try_next().await?;
            while let Some(recorded) = rows.try_next().await? {
                first.get_or_insert(recorded.position);
                let is_kept = next_kept == Some(recorded.position);
                if is_kept {
                    next_kept = kept.try_next().await?;
                }
                writer.add(ArchiveRow { recorded, kept: is_kept }).await?;
                if writer.rows().is_multiple_of(ROWS_PER_SIGN) {
                    progress(ArchiveProgress::Wrote(span, writer.rows()));
                }
            }
        }
        writer.end_group().await?;
        let first = first.unwrap_or(to);
        let around = exchange::chain_around(&mut kept_from, shard, first, to).await?;
        let (chain_before, chain_after) =
            around.ok_or(ArchiveError::NoCommit { shard, first, last: to })?;
        let rows = writer.rows() - before;
        let (chain_before, chain_after) = (hex(&chain_before), hex(&chain_after));
        of_shards.push(ShardRange { shard, rows, first, last: to, chain_before, chain_after });
    }
    let installation = log.installation();
    let about = |rows, rows_hash: &[u8; 32]| About {
        v: 1,
        installation,
        partition: span.table(),
        month: span.to_string(),
        rows,
        rows_hash: hex(rows_hash),
        shards: of_shards,
    };
    Ok(writer.finish(about).await?)
}

/// Compares a file, as it is read from where it lies, with a month's table.
pub(super) async fn compare(
    log: &Log,
    file: &File,
    span: Span,
    table: MonthTable,
    progress: &mut impl FnMut(ArchiveProgress),
) -> Result<(), ArchiveError> {
    let mut connection = log.pool().acquire().await?;
    let mut compared = 0;
    let differs = |shard, position| ArchiveError::Differs {
        location: file.location().to_owned(),
        shard,
        position,
    };
    for shard in log.shards() {
        let of_shard = || file.groups.iter().filter(|group| group.shard == shard);
        let to = of_shard().map(|group| group.last).max().unwrap_or(i64::MAX);
        let mut rows = pin!(month::rows(&mut connection, span, table, (shard, to)));
        for group in of_shard() {
            for read in file.read(*group).await? {
                let position = read.recorded.position;
                let same = rows.try_next().await?;
                if !same.is_some_and(|row| is_same(&row, &read.recorded)) {
                    return Err(differs(shard, position));
                }
                compared += 1;
                if compared % ROWS_PER_SIGN == 0 {
                    progress(ArchiveProgress::Compared(span, compared));
                }
            }
        }
        if let Some(more) = rows.try_next().await? {
            return Err(differs(shard, more.position));
        }
    }
    if compared != file.about.rows {
        let location = file.location().to_owned();
        return Err(
            ArchiveFileError::Not { location, what: "it has not all rows".to_owned() }.into()
        );
    }
    Ok(())
}
