//! Rows that have left the table, on the chain's way.
//!
//! Guarantees that a row which the table has kept is the archive's row, and that each
//! has what it should: nothing that was taken out is in the table again, nothing that
//! was kept is missing. Does not know where archives lie: [`Shelf`] does.

use std::fmt;

use chrono::{DateTime, Utc};

use super::chain::{Broken, digest};
use super::partition::Span;
use crate::event::Recorded;

/// The archived months that some rows came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Months(pub(super) Vec<Span>);

impl fmt::Display for Months {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, span) in self.0.iter().enumerate() {
            let before = if i == 0 { "; some of them are archived with" } else { "," };
            write!(f, "{before} {span}")?;
        }
        Ok(())
    }
}

/// A row that has left the table, or of which the table has kept a copy.
#[derive(Clone, Debug)]
pub struct Shelved {
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
pub trait Shelf: Send {
    /// Forgets what lies at or before a place.
    fn skip_to(&mut self, shard: i16, after: i64);

    /// The rows of a shard up to a position that were not taken before, in order.
    fn take(
        &mut self,
        shard: i16,
        to: i64,
    ) -> impl Future<Output = Result<Vec<Shelved>, Unreadable>> + Send;

    /// The archived month that a time lies in.
    fn holds(&self, t: DateTime<Utc>) -> Option<Span>;
}

/// Nothing is archived.
pub struct NoShelf;

impl Shelf for NoShelf {
    fn skip_to(&mut self, _: i16, _: i64) {}

    async fn take(&mut self, _: i16, _: i64) -> Result<Vec<Shelved>, Unreadable> {
        Ok(Vec::new())
    }

    fn holds(&self, _: DateTime<Utc>) -> Option<Span> {
        None
    }
}

/// A row, and the archive that it came from.
pub(super) struct Found {
    pub(super) recorded: Recorded,
    pub(super) shelf: Option<Span>,
}

/// The rows of the table and those of the archives, in order: what is in both is there
/// once, and must be the same.
pub(super) fn merge(
    rows: Vec<Recorded>,
    shelved: Vec<Shelved>,
    shelf: &impl Shelf,
) -> Result<Vec<Found>, Broken> {
    let mut merged = Vec::with_capacity(rows.len() + shelved.len());
    let mut shelved = shelved.into_iter().peekable();
    for row in rows {
        while let Some(before) = shelved.next_if(|s| s.recorded.position < row.position) {
            merged.push(only_shelved(before)?);
        }
        let broken = |span, what| {
            Err(Broken::Archive { shard: row.shard, position: row.position, span, what })
        };
        match shelved.next_if(|s| s.recorded.position == row.position) {
            Some(same) if !same.kept => {
                return broken(same.span, "the table has it still, or again");
            }
            Some(same) if !is_same(&same.recorded, &row) => {
                return broken(same.span, "the table has it otherwise than the archive");
            }
            Some(_) => {}
            None => {
                if let Some(span) = shelf.holds(row.event.occurred_at) {
                    return broken(span, "the table has it and the archive does not");
                }
            }
        }
        merged.push(Found { recorded: row, shelf: None });
    }
    for rest in shelved {
        merged.push(only_shelved(rest)?);
    }
    Ok(merged)
}

fn only_shelved(row: Shelved) -> Result<Found, Broken> {
    let Shelved { span, recorded, kept } = row;
    match kept {
        false => Ok(Found { recorded, shelf: Some(span) }),
        true => Err(Broken::Archive {
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
        && digest(&a.event) == digest(&b.event)
}
