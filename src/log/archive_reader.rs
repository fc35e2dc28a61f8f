//! Rows that have left the table, on the chain's way.
//!
//! Guarantees that a row which the table has kept is the archive's row, and that each
//! has what it should: nothing that was taken out is in the table again, nothing that
//! was kept is missing. Does not know where archives lie: [`ArchiveReader`] does.

use chrono::{DateTime, Utc};

use super::chain::{ChainFault, plain_digest};
use super::partition::Span;
use crate::event::Recorded;

/// A row that has left the table, or of which the table has kept a copy.
#[derive(Clone, Debug)]
pub struct ArchivedRow {
    /// The month that it was archived with.
    pub span: Span,
    /// The row.
    pub recorded: Recorded,
    /// Whether the table must have it, too.
    pub kept: bool,
}

/// An archive is needed and cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the archive of {span} cannot be read: {location}: {why}")]
pub struct Unreadable {
    /// The month.
    pub span: Span,
    /// Where it should be.
    pub location: String,
    /// What is wrong.
    pub why: String,
}

/// Where archived rows are read from. Shards are asked for one after the other, their
/// positions in order.
pub trait ArchiveReader: Send {
    /// Forgets what lies at or before a place.
    fn skip_to(&mut self, shard: i16, after: i64);

    /// The rows of a shard up to a position that were not taken before, in order.
    fn take(
        &mut self,
        shard: i16,
        to: i64,
    ) -> impl Future<Output = Result<Vec<ArchivedRow>, Unreadable>> + Send;

    /// The archived month that a time lies in.
    fn holds(&self, t: DateTime<Utc>) -> Option<Span>;
}

/// Nothing is archived.
pub struct NoArchives;

impl ArchiveReader for NoArchives {
    fn skip_to(&mut self, _: i16, _: i64) {}

    async fn take(&mut self, _: i16, _: i64) -> Result<Vec<ArchivedRow>, Unreadable> {
        Ok(Vec::new())
    }

    fn holds(&self, _: DateTime<Utc>) -> Option<Span> {
        None
    }
}

/// A row, and the archive that it came from.
pub(super) struct MergedRow {
    pub(super) recorded: Recorded,
    /// Of a reading, the number of its series.
    pub(super) series: Option<i32>,
    pub(super) span: Option<Span>,
}

/// The rows of the table and those of the archives, in order: what is in both is there
/// once, and must be the same.
pub(super) fn merge(
    rows: Vec<(Recorded, Option<i32>)>,
    archived_rows: Vec<(ArchivedRow, Option<i32>)>,
    archives: &impl ArchiveReader,
) -> Result<Vec<MergedRow>, ChainFault> {
    let mut merged = Vec::with_capacity(rows.len() + archived_rows.len());
    let mut archived_rows = archived_rows.into_iter().peekable();
    for (row, series) in rows {
        while let Some(before) = archived_rows.next_if(|s| s.0.recorded.position < row.position) {
            merged.push(only_archived(before)?);
        }
        let broken = |span, what| {
            Err(ChainFault::Archive { shard: row.shard, position: row.position, span, what })
        };
        match archived_rows.next_if(|s| s.0.recorded.position == row.position).map(|same| same.0) {
            Some(same) if !same.kept => {
                return broken(same.span, "the table has it still, or again");
            }
            Some(same) if !is_same(&same.recorded, &row) => {
                return broken(same.span, "the table has it otherwise than the archive");
            }
            Some(_) => {}
            None => {
                if let Some(span) = archives.holds(row.event.occurred_at) {
                    return broken(span, "the table has it and the archive does not");
                }
            }
        }
        merged.push(MergedRow { recorded: row, series, span: None });
    }
    for rest in archived_rows {
        merged.push(only_archived(rest)?);
    }
    Ok(merged)
}

fn only_archived((row, series): (ArchivedRow, Option<i32>)) -> Result<MergedRow, ChainFault> {
    let ArchivedRow { span, recorded, kept } = row;
    match kept {
        false => Ok(MergedRow { recorded, series, span: Some(span) }),
        true => Err(ChainFault::Archive {
            shard: recorded.shard,
            position: recorded.position,
            span,
            what: "the table should have kept it and has it no more",
        }),
    }
}

/// Whether two rows of one place are the same, to the bit.
pub fn is_same(a: &Recorded, b: &Recorded) -> bool {
    (a.shard, a.position, a.recorded_at) == (b.shard, b.position, b.recorded_at)
        && plain_digest(&a.event) == plain_digest(&b.event)
}
