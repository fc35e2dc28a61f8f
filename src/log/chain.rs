//! The hash chain: each commit's SHA-256 covers the hash before it, its rows, and the series
//! that are new in it.
//!
//! Guarantees that a row or a series that was changed, removed, inserted or moved after its
//! commit makes [`verify`] fail at that commit, whether it lies in the table or in an
//! archive; what is in both must be the same. Does not stop whoever owns the database
//! from rewriting the chain with the rows: publish a head elsewhere for that.

mod walk;

use std::fmt;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::partition::Span;
use crate::event::Event;

pub use walk::{VerifyError, Walk, verify, verify_part, verify_with};

/// The length of a [`digest`].
pub const DIGEST_BYTES: usize = 32;

/// What a commit's hash covers of an event: of a reading its series' number, which is given
/// an identity by the first commit that uses it; of what is no reading all its texts. Not its
/// position and not when it was recorded, so that it is known before the shard is locked.
pub(super) fn digest(event: &Event, series: Option<i32>) -> [u8; DIGEST_BYTES] {
    let mut fields = Fields(Sha256::new());
    match series {
        Some(series) => {
            fields.0.update([1]);
            fields.0.update(series.to_be_bytes());
            fields.number(event.value);
            fields.number(event.quality.map(f64::from));
            fields.0.update([u8::from(event.suspect)]);
            fields.0.update(event.occurred_at.timestamp_micros().to_be_bytes());
            fields.text(event.data.as_deref());
        }
        None => fields.add(event),
    }
    fields.0.finalize().into()
}

/// An event's SHA-256 in its own words, without the numbers of this log: what an archive is
/// compared by.
///
/// Texts carry their length and optional values a presence byte, so that no two
/// different rows look the same.
pub fn plain_digest(event: &Event) -> [u8; DIGEST_BYTES] {
    let mut fields = Fields(Sha256::new());
    fields.add(event);
    fields.0.finalize().into()
}

struct Fields(Sha256);

impl Fields {
    fn add(&mut self, event: &Event) {
        self.0.update([2]);
        self.text(Some(&event.tenant));
        self.text(Some(&event.patient_id));
        self.text(Some(&event.kind));
        self.text(event.vital.map(|v| v.name()));
        self.number(event.value);
        self.number(event.quality.map(f64::from));
        self.0.update([u8::from(event.suspect)]);
        self.0.update(event.occurred_at.timestamp_micros().to_be_bytes());
        self.text(Some(&event.source_id));
        self.text(event.data.as_deref());
    }

    fn text(&mut self, text: Option<&str>) {
        match text {
            Some(t) => {
                self.0.update([1]);
                self.0.update((t.len() as u64).to_be_bytes());
                self.0.update(t);
            }
            None => self.0.update([0]),
        }
    }

    fn number(&mut self, number: Option<f64>) {
        match number {
            Some(n) => {
                self.0.update([1]);
                self.0.update(n.to_bits().to_be_bytes());
            }
            None => self.0.update([0]),
        }
    }
}

/// One commit's hash in the making, as `append_events` makes it: over the hash before
/// it, the shard, the time, the last series and what is new of them, the first and the last
/// position (all of them, where they have gaps) and the rows' digests.
struct Link {
    begun: Sha256,
    positions: Vec<i64>,
    digests: Vec<u8>,
}

impl Link {
    /// Begins where `previous` ended, with the digests of the series that are new.
    fn new(previous: &[u8], shard: i16, commit: &Commit, series: &[u8]) -> Link {
        let mut begun = Sha256::new();
        begun.update(previous);
        begun.update(shard.to_be_bytes());
        begun.update(commit.recorded_at.timestamp_micros().to_be_bytes());
        begun.update(commit.series_to.to_be_bytes());
        begun.update(series);
        Link { begun, positions: Vec::new(), digests: Vec::new() }
    }

    fn add(&mut self, position: i64, event: &Event, series: Option<i32>) {
        self.positions.push(position);
        self.digests.extend(digest(event, series));
    }

    /// The chain's hash after this commit.
    fn finish(mut self) -> [u8; 32] {
        if let (Some(first), Some(last)) = (self.positions.first(), self.positions.last()) {
            self.begun.update(first.to_be_bytes());
            self.begun.update(last.to_be_bytes());
            if last - first + 1 != self.positions.len() as i64 {
                self.positions.iter().for_each(|p| self.begun.update(p.to_be_bytes()));
            }
            self.begun.update(&self.digests);
        }
        self.begun.finalize().into()
    }
}

/// The archived months that some rows came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Months(Vec<Span>);

impl fmt::Display for Months {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, span) in self.0.iter().enumerate() {
            let before = if i == 0 { "; some of them are archived with" } else { "," };
            write!(f, "{before} {span}")?;
        }
        Ok(())
    }
}

/// The first thing in a shard that does not fit the chain.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ChainFault {
    /// The rows of a commit are not those that were committed.
    #[error(
        "shard {shard}, positions {from} to {to}: {found} events where {committed} were committed, and the hash {what}{archived}"
    )]
    Commit {
        /// Where.
        shard: i16,
        /// First position of the commit.
        from: i64,
        /// Last position of the commit.
        to: i64,
        /// Rows there are.
        found: usize,
        /// Rows there were.
        committed: usize,
        /// Agrees or not.
        what: &'static str,
        /// Agree or not.
        times: &'static str,
        /// Rows that came from archives.
        archived: Months,
    },
    /// A row lies where no commit put one.
    #[error("shard {shard}, position {position}: an event that no commit recorded")]
    Stray {
        /// Where.
        shard: i16,
        /// Its position.
        position: i64,
    },
    /// A series is there that no commit made.
    #[error("shard {shard}, series {series}: a series that no commit recorded")]
    StraySeries {
        /// Where.
        shard: i16,
        /// Its number.
        series: i32,
    },
    /// Table and archive contradict each other.
    #[error("shard {shard}, position {position}, archived with {span}: {what}")]
    Archive {
        /// Where.
        shard: i16,
        /// Its position.
        position: i64,
        /// The archived month.
        span: Span,
        /// In what.
        what: &'static str,
    },
    /// The head does not agree with the last commit.
    #[error(
        "shard {shard}: the head says position {head}, the last commit {last}, or their hashes differ"
    )]
    Head {
        /// Where.
        shard: i16,
        /// Of the head.
        head: i64,
        /// Of the last commit.
        last: i64,
    },
}

#[derive(sqlx::FromRow)]
struct Commit {
    position_from: i64,
    position_to: i64,
    events: i32,
    series_to: i32,
    occurred_min: DateTime<Utc>,
    occurred_max: DateTime<Utc>,
    recorded_at: DateTime<Utc>,
    hash: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(patient: &str, kind: &str) -> Event {
        let at = DateTime::UNIX_EPOCH;
        Event { data: None, ..Event::non_reading(kind, ("t", patient), "s", at, "") }
    }

    #[test]
    fn moving_text_from_one_field_to_the_next_changes_the_digest() {
        let digest = |event| digest(&event, None);
        assert_ne!(digest(event("ab", "c")), digest(event("a", "bc")));
        assert_eq!(digest(event("a", "x")), digest(event("a", "x")));
    }

    /// Computed by another program: what is in a log cannot be changed.
    #[test]
    fn a_commits_hash_stays_what_it_is() {
        let commit = Commit {
            position_from: 1,
            position_to: 1,
            events: 1,
            series_to: 1,
            occurred_min: DateTime::UNIX_EPOCH,
            occurred_max: DateTime::UNIX_EPOCH,
            recorded_at: DateTime::UNIX_EPOCH,
            hash: Vec::new(),
        };
        let reading = Event {
            vital: Some(crate::vital::Vital::HeartRate),
            value: Some(72.5),
            quality: Some(0.5),
            ..event("a", "reading")
        };
        let hash = |positions: &[i64], series: &[u8]| {
            let mut link = Link::new(&[0; 32], 0, &commit, series);
            positions.iter().for_each(|p| match p % 2 {
                0 => link.add(*p, &event("a", "x"), None),
                _ => link.add(*p, &reading, Some(1)),
            });
            link.finish().map(|byte| format!("{byte:02x}")).concat()
        };
        assert_eq!(
            hash(&[1], &[7; 32]),
            "5b34e03af091806beb7de27cc7aeab5cc772591269422b22774d0c8ca94a9785"
        );
        assert_eq!(
            hash(&[1, 2], &[]),
            "6d0fd4052f61ad86f1ca43a1d9437a867f9da8eab4fe6967b781ca5166e1bb3f"
        );
        assert_eq!(
            hash(&[1, 3], &[]),
            "d6608bc8876b6a6438d88bf28d632309f512782fcfb2b8e17d96ef3919b23bb3"
        );
    }
}
