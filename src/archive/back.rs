//! Bringing a month back.
//!
//! Guarantees that only rows that the chain vouches for come back, into the
//! installation that they left, all at once. Run again, it says that it is done.

use super::columns::ArchiveRow;
use super::file::{ArchiveFileError, File};
use super::out::{ArchiveError, ArchiveProgress, compare};
use super::reader::Archives;
use super::store::{Access, PlaceError, StoredObject};
use crate::event::Recorded;
use crate::log::chain::{ChainFault, VerifyError, verify_part};
use crate::log::exchange::{self, ExchangeError};
use crate::log::month::MonthTable;
use crate::log::partition::Span;
use crate::log::{Log, archived_months};

/// Why a month did not come back. It is archived as it was.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BackError {
    #[error("bringing a month back: {0}")]
    Database(#[from] sqlx::Error),
    #[error("reading the archive: {0}")]
    File(#[from] ArchiveFileError),
    #[error("reading the archive: {0}")]
    Place(#[from] PlaceError),
    #[error("{0}")]
    Exchange(#[from] ExchangeError),
    #[error("{0}")]
    Verify(#[from] VerifyError),
    #[error("{0}")]
    Archive(#[from] ArchiveError),
    #[error("another process archives, brings back or verifies: wait for it to finish")]
    Busy,
    #[error("{location} is an archive of the installation {theirs}, and this is {ours}")]
    Foreign { location: String, theirs: uuid::Uuid, ours: uuid::Uuid },
    #[error("{location} is no archive of a month")]
    NoMonth { location: String },
    #[error("{location} holds {found} rows of {span}, and {archived} were archived")]
    Rows { location: String, span: Span, found: u64, archived: i64 },
    #[error("{location} is not what the log committed: {broken}")]
    Broken { location: String, broken: ChainFault },
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brought {
    /// So many rows of a month are in the database again.
    Back(Span, u64),
    /// The month is not archived.
    AlreadyHere(Span),
}

/// Brings the month of a file back.
pub async fn bring_back(
    log: &Log,
    location: &str,
    access: &Access,
    mut progress: impl FnMut(ArchiveProgress),
) -> Result<Brought, BackError> {
    let file = File::open(StoredObject::at(location, access)?).await?;
    let ours = log.installation();
    let (location, theirs) = (file.location().to_owned(), file.about.installation);
    if theirs != ours {
        return Err(BackError::Foreign { location, theirs, ours });
    }
    let Some(span) = file.about.span() else { return Err(BackError::NoMonth { location }) };
    // A connection of its own, closed at the end: it holds a session's lock.
    let mut connection = log.pool().acquire().await?.detach();
    if !exchange::only_one(&mut connection).await? {
        return Err(BackError::Busy);
    }
    exchange::drop_leftovers(&mut connection).await?;
    let archived = archived_months(log.pool()).await?;
    let Some(month) = archived.iter().find(|month| month.span == span) else {
        return Ok(Brought::AlreadyHere(span));
    };
    // As many rows, each of them committed and of this month: then they are the month.
    if i64::try_from(file.about.rows) != Ok(month.rows) {
        let (found, archived) = (file.about.rows, month.rows);
        return Err(BackError::Rows { location, span, found, archived });
    }
    // Every commit that may have a row of this month, whether the file has it or not.
    let mut reaches = file.reaches();
    for (shard, first, last) in exchange::reach(&mut connection, span).await? {
        let reach = reaches.entry(shard).or_insert((first, last));
        *reach = (reach.0.min(first), reach.1.max(last));
    }
    let mut archives = Archives::open(&archived, None, access).await;
    archives.replace(span, file);
    for (shard, reach) in reaches {
        let walk = verify_part(log.pool(), shard, reach, &mut archives, |_| {}).await?;
        if let Some(broken) = walk.broken {
            return Err(BackError::Broken { location, broken });
        }
    }
    let file = archives.into_file(span).map_err(VerifyError::from)?;
    exchange::make_full(&mut connection, span).await?;
    let mut rows = 0;
    for group in &file.groups {
        let read = file.read(*group).await?;
        let read: Vec<Recorded> =
            read.into_iter().map(|ArchiveRow { recorded, .. }| recorded).collect();
        exchange::fill(&mut connection, span, group.shard, &read).await?;
        rows += group.rows;
        progress(ArchiveProgress::Wrote(span, rows));
    }
    compare(log, &file, span, MonthTable::Full, &mut progress).await?;
    exchange::put_back(&mut connection, span).await?;
    Ok(Brought::Back(span, rows))
}
