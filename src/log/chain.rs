//! The hash chain: each commit's SHA-256 covers the hash before it and its rows.
//!
//! Guarantees that a row that was changed, removed, inserted or moved after its
//! commit makes [`verify`] fail at that commit. Does not stop whoever owns the
//! database from rewriting the chain with the rows: publish a head elsewhere for
//! that.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};

use super::read::read_positions;
use crate::event::Event;

/// How much is checked per round trip: so many commits, and no further commit once
/// there are so many events. Bounds memory, not time.
const COMMITS_PER_PAGE_MAX: i64 = 1_000;
const EVENTS_PER_PAGE_MAX: i64 = 20_000;

/// One commit's hash in the making.
pub struct Link(Sha256);

impl Link {
    /// Begins where `previous` ended.
    pub fn new(previous: &[u8], shard: i16, recorded_at: DateTime<Utc>) -> Link {
        let mut sha = Sha256::new();
        sha.update(previous);
        sha.update(shard.to_be_bytes());
        sha.update(recorded_at.timestamp_micros().to_be_bytes());
        Link(sha)
    }

    /// Adds a row. Texts carry their length and optional values a presence byte,
    /// so that no two different rows look the same.
    pub fn add(&mut self, position: i64, event: &Event) {
        self.0.update(position.to_be_bytes());
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

    /// The chain's hash after this commit.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
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

/// The first thing in a shard that does not fit the chain.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Broken {
    /// The rows of a commit are not those that were committed.
    #[error(
        "shard {shard}, positions {from} to {to}: {found} events where {committed} were committed, and the hash {what}"
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
    },
    /// A row lies where no commit put one.
    #[error("shard {shard}, position {position}: an event that no commit recorded")]
    Stray {
        /// Where.
        shard: i16,
        /// Its position.
        position: i64,
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

/// What a walk along a shard's chain found.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Events that fit.
    pub events: u64,
    /// Commits that fit.
    pub commits: u64,
    /// The first that does not.
    pub broken: Option<Broken>,
}

#[derive(sqlx::FromRow)]
struct Commit {
    position_from: i64,
    position_to: i64,
    events: i32,
    occurred_min: DateTime<Utc>,
    occurred_max: DateTime<Utc>,
    recorded_at: DateTime<Utc>,
    hash: Vec<u8>,
}

/// Recomputes a shard's chain from its rows, up to the head at the start.
///
/// `progress` is told the number of events after each page. Memory is bounded by
/// a page of commits.
pub async fn verify(
    pool: &PgPool,
    shard: i16,
    mut progress: impl FnMut(u64),
) -> Result<Walk, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let (head, head_hash): (i64, Vec<u8>) =
        sqlx::query_as("select position, hash from shard_head where shard = $1")
            .bind(shard)
            .fetch_one(&mut *connection)
            .await?;
    let mut walk = Walk { events: 0, commits: 0, broken: None };
    let (mut at, mut hash) = (0_i64, vec![0_u8; 32]);
    loop {
        let page = commits_after(&mut connection, shard, at, head).await?;
        let Some(last) = page.last() else { break };
        let rows = read_positions(&mut connection, shard, at, last.position_to).await?;
        let mut rows = rows.into_iter().peekable();
        for commit in &page {
            let mut link = Link::new(&hash, shard, commit.recorded_at);
            let mut found = 0;
            let mut times_agree = true;
            // Consumers read no further than the commit says; it must say what is true.
            let mut times: Option<(DateTime<Utc>, DateTime<Utc>)> = None;
            while let Some(row) = rows.next_if(|r| r.position <= commit.position_to) {
                if row.position < commit.position_from {
                    walk.broken = Some(Broken::Stray { shard, position: row.position });
                    return Ok(walk);
                }
                times_agree &= row.recorded_at == commit.recorded_at;
                link.add(row.position, &row.event);
                let at = row.event.occurred_at;
                times = Some(times.map_or((at, at), |(min, max)| (at.min(min), at.max(max))));
                found += 1;
            }
            times_agree &= times == Some((commit.occurred_min, commit.occurred_max));
            let agrees = link.finish().as_slice() == commit.hash;
            if !agrees || !times_agree || found != commit.events as usize {
                walk.broken = Some(Broken::Commit {
                    shard,
                    from: commit.position_from,
                    to: commit.position_to,
                    found,
                    committed: commit.events as usize,
                    what: if agrees { "agrees" } else { "differs" },
                    times: if times_agree { "agree" } else { "differ" },
                });
                return Ok(walk);
            }
            walk.events += found as u64;
            walk.commits += 1;
            (at, hash) = (commit.position_to, commit.hash.clone());
        }
        progress(walk.events);
    }
    walk.broken = if at != head || hash != head_hash {
        Some(Broken::Head { shard, head, last: at })
    } else {
        stray_row(&mut connection, shard).await?
    };
    Ok(walk)
}

async fn commits_after(
    connection: &mut PgConnection,
    shard: i16,
    after: i64,
    head: i64,
) -> Result<Vec<Commit>, sqlx::Error> {
    sqlx::query_as(
        "select position_from, position_to, events, occurred_min, occurred_max, recorded_at, hash \
         from (select c.*, sum(events) over (order by position_to) - events as before \
               from (select * from log_commit \
                     where shard = $1 and position_to > $2 and position_to <= $3 \
                     order by position_to limit $4) c) page \
         where before < $5 order by position_to",
    )
    .bind(shard)
    .bind(after)
    .bind(head)
    .bind(COMMITS_PER_PAGE_MAX)
    .bind(EVENTS_PER_PAGE_MAX)
    .fetch_all(connection)
    .await
}

/// A row outside every commit's reach: at or below zero, or beyond the head.
///
/// Beyond the head is only wrong while nobody appends, so the head is read again
/// in the same statement.
async fn stray_row(
    connection: &mut PgConnection,
    shard: i16,
) -> Result<Option<Broken>, sqlx::Error> {
    let position: Option<i64> = sqlx::query_scalar(
        "select e.position from event e \
         where e.shard = $1 and (e.position <= 0 \
            or e.position > (select position from shard_head where shard = $1)) \
         order by e.position limit 1",
    )
    .bind(shard)
    .fetch_optional(connection)
    .await?;
    Ok(position.map(|position| Broken::Stray { shard, position }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(patient: &str, kind: &str) -> Event {
        Event {
            tenant: "t".into(),
            patient_id: patient.into(),
            kind: kind.into(),
            vital: None,
            value: None,
            quality: None,
            suspect: false,
            occurred_at: DateTime::UNIX_EPOCH,
            source_id: "s".into(),
            data: None,
        }
    }

    fn hash(events: &[Event]) -> [u8; 32] {
        let mut link = Link::new(&[0; 32], 0, DateTime::UNIX_EPOCH);
        for (i, e) in events.iter().enumerate() {
            link.add(i as i64, e);
        }
        link.finish()
    }

    #[test]
    fn moving_text_from_one_field_to_the_next_changes_the_hash() {
        assert_ne!(hash(&[event("ab", "c")]), hash(&[event("a", "bc")]));
        assert_ne!(
            hash(&[event("a", "x"), event("b", "x")]),
            hash(&[event("b", "x"), event("a", "x")])
        );
        assert_eq!(hash(&[event("a", "x")]), hash(&[event("a", "x")]));
    }
}
