//! The walk along a shard's chain: commit after commit, from table and archives.
//!
//! Guarantees that it stops at the first thing that does not fit. Memory is bounded by
//! a page of commits, and by what the archives' reader holds.

use std::iter::Peekable;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::{ChainFault, Commit, Link, Months};
use crate::event::READING;
use crate::log::archive_reader::{
    ArchiveReader, ArchivedRow, MergedRow, NoArchives, Unreadable, merge,
};
use crate::log::read::read_positions;
use crate::log::series;

/// How much is checked per round trip: so many commits, and no further commit once
/// there are so many events. Bounds memory, not time.
const COMMITS_PER_PAGE_MAX: i64 = 1_000;
const EVENTS_PER_PAGE_MAX: i64 = 20_000;

/// Why a walk could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// PostgreSQL said no, or is gone.
    #[error("verifying the chain: {0}")]
    Database(#[from] sqlx::Error),
    /// An archive is needed.
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
}

/// What a walk along a shard's chain found.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Events that fit.
    pub events: u64,
    /// Of them, those that only an archive has.
    pub archived: u64,
    /// Commits that fit.
    pub commits: u64,
    /// The first that does not.
    pub broken: Option<ChainFault>,
}

/// Recomputes a shard's chain from its rows, up to the head at the start.
///
/// `progress` is told the number of events after each page. Memory is bounded by
/// a page of commits.
pub async fn verify(
    pool: &PgPool,
    shard: i16,
    progress: impl FnMut(u64),
) -> Result<Walk, VerifyError> {
    verify_with(pool, shard, &mut NoArchives, progress).await
}

/// [`verify`], with the rows that have left the table taken from `archives`; memory is
/// bounded also by what that holds.
pub async fn verify_with(
    pool: &PgPool,
    shard: i16,
    archives: &mut impl ArchiveReader,
    mut progress: impl FnMut(u64),
) -> Result<Walk, VerifyError> {
    let mut connection = pool.acquire().await?;
    let (head, head_hash, series): (i64, Vec<u8>, i32) =
        sqlx::query_as("select position, hash, series_committed from shard_head where shard = $1")
            .bind(shard)
            .fetch_one(&mut *connection)
            .await?;
    archives.skip_to(shard, i64::MIN);
    let mut end = End { at: 0, series: 0, hash: vec![0; 32] };
    let mut walk = Walk::default();
    on(&mut connection, shard, &mut end, head, archives, &mut walk, &mut progress).await?;
    if walk.broken.is_some() {
        return Ok(walk);
    }
    walk.broken = if end.at != head || end.series != series || end.hash != head_hash {
        Some(ChainFault::Head { shard, head, last: end.at })
    } else if let Some(row) = archives.take(shard, i64::MAX).await?.first() {
        Some(ChainFault::Stray { shard, position: row.recorded.position })
    } else {
        match stray_row(&mut connection, shard).await? {
            None => stray_series(&mut connection, shard).await?,
            stray => stray,
        }
    };
    Ok(walk)
}

/// Recomputes the commits that reach into the positions `from` to `to`, on top of the
/// hash that the log has before them.
pub async fn verify_part(
    pool: &PgPool,
    shard: i16,
    (from, to): (i64, i64),
    archives: &mut impl ArchiveReader,
    mut progress: impl FnMut(u64),
) -> Result<Walk, VerifyError> {
    let mut connection = pool.acquire().await?;
    let before: Option<(i64, i32, Vec<u8>)> = sqlx::query_as(
        "select position_to, series_to, hash from log_commit where shard = $1 and position_to < $2 \
         order by position_to desc limit 1",
    )
    .bind(shard)
    .bind(from)
    .fetch_optional(&mut *connection)
    .await?;
    let (at, series, hash) = before.unwrap_or((0, 0, vec![0; 32]));
    let to: Option<i64> = sqlx::query_scalar(
        "select min(position_to) from log_commit where shard = $1 and position_to >= $2",
    )
    .bind(shard)
    .bind(to)
    .fetch_one(&mut *connection)
    .await?;
    let mut walk = Walk::default();
    let Some(to) = to else {
        walk.broken = Some(ChainFault::Stray { shard, position: from });
        return Ok(walk);
    };
    archives.skip_to(shard, at);
    let mut end = End { at, series, hash };
    on(&mut connection, shard, &mut end, to, archives, &mut walk, &mut progress).await?;
    Ok(walk)
}

/// How far a walk has come, in positions and in series, and the hash there.
struct End {
    at: i64,
    series: i32,
    hash: Vec<u8>,
}

/// Walks on to the commit that ends at `to`, or to the first that is broken.
async fn on(
    connection: &mut PgConnection,
    shard: i16,
    end: &mut End,
    to: i64,
    archives: &mut impl ArchiveReader,
    walk: &mut Walk,
    progress: &mut impl FnMut(u64),
) -> Result<(), VerifyError> {
    loop {
        let page = commits_after(connection, shard, end.at, to).await?;
        let Some(last) = page.last() else { return Ok(()) };
        let rows = read_positions(connection, shard, end.at, last.position_to).await?;
        let archived_rows = archives.take(shard, last.position_to).await?;
        let archived_rows = numbered(connection, shard, archived_rows).await?;
        let rows = match merge(rows, archived_rows, archives) {
            Ok(rows) => rows,
            Err(broken) => {
                walk.broken = Some(broken);
                return Ok(());
            }
        };
        let mut rows = rows.into_iter().peekable();
        let series = series_digests(connection, shard, end.series, last.series_to).await?;
        let mut series = series.into_iter().peekable();
        for commit in &page {
            let mut new = Vec::new();
            while let Some((_, digest)) = series.next_if(|(number, _)| *number <= commit.series_to)
            {
                new.extend(digest);
            }
            if let Err(broken) = commit.check(shard, (&end.hash, &new), &mut rows, walk) {
                walk.broken = Some(broken);
                return Ok(());
            }
            let (at, series) = (commit.position_to, commit.series_to);
            *end = End { at, series, hash: commit.hash.clone() };
        }
        progress(walk.events);
    }
}

impl Commit {
    /// Takes its rows, and compares them with what was committed.
    fn check(
        &self,
        shard: i16,
        (previous, series): (&[u8], &[u8]),
        rows: &mut Peekable<impl Iterator<Item = MergedRow>>,
        walk: &mut Walk,
    ) -> Result<(), ChainFault> {
        let mut link = Link::new(previous, shard, self, series);
        let (mut found, mut archived, mut months) = (0, 0, Months::default());
        let mut times_agree = true;
        // Consumers read no further than the commit says; it must say what is true.
        let mut times: Option<(DateTime<Utc>, DateTime<Utc>)> = None;
        while let Some(row) = rows.next_if(|r| r.recorded.position <= self.position_to) {
            let MergedRow { recorded: row, series, span } = row;
            if row.position < self.position_from {
                return Err(ChainFault::Stray { shard, position: row.position });
            }
            times_agree &= row.recorded_at == self.recorded_at;
            link.add(row.position, &row.event, series);
            let at = row.event.occurred_at;
            times = Some(times.map_or((at, at), |(min, max)| (at.min(min), at.max(max))));
            found += 1;
            if let Some(span) = span {
                archived += 1;
                if !months.0.contains(&span) {
                    months.0.push(span);
                }
            }
        }
        times_agree &= times == Some((self.occurred_min, self.occurred_max));
        let agrees = link.finish().as_slice() == self.hash;
        if !agrees || !times_agree || found != self.events as usize {
            return Err(ChainFault::Commit {
                shard,
                from: self.position_from,
                to: self.position_to,
                found,
                committed: self.events as usize,
                what: if agrees { "agrees" } else { "differs" },
                times: if times_agree { "agree" } else { "differ" },
                archived: months,
            });
        }
        walk.events += found as u64;
        walk.archived += archived;
        walk.commits += 1;
        Ok(())
    }
}

async fn commits_after(
    connection: &mut PgConnection,
    shard: i16,
    after: i64,
    head: i64,
) -> Result<Vec<Commit>, sqlx::Error> {
    sqlx::query_as(
        "select position_from, position_to, events, series_to, occurred_min, occurred_max, recorded_at, hash \
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

/// Archived rows with the numbers that their series have here.
async fn numbered(
    connection: &mut PgConnection,
    shard: i16,
    rows: Vec<ArchivedRow>,
) -> Result<Vec<(ArchivedRow, Option<i32>)>, sqlx::Error> {
    let readings = || rows.iter().map(|row| &row.recorded.event).filter(|e| e.kind == READING);
    let numbers = match readings().next() {
        Some(_) => series::find(connection, shard, &readings().collect::<Vec<_>>()).await?,
        None => Vec::new(),
    };
    let mut numbers = numbers.into_iter();
    let with_number = |row: ArchivedRow| {
        let is_reading = row.recorded.event.kind == READING;
        // Of a series that is not here: no series has this number.
        let number = is_reading.then(|| numbers.next().flatten().unwrap_or_default());
        (row, number)
    };
    Ok(rows.into_iter().map(with_number).collect())
}

/// What a chain covers of the series (after, to] of a shard, by their numbers.
async fn series_digests(
    connection: &mut PgConnection,
    shard: i16,
    after: i32,
    to: i32,
) -> Result<Vec<(i32, Vec<u8>)>, sqlx::Error> {
    if after == to {
        return Ok(Vec::new());
    }
    sqlx::query_as(
        "select series, series_digest(series, tenant, patient_id, vital::text, source_id) from series \
         where shard = $1 and series > $2 and series <= $3 order by series",
    )
    .bind(shard)
    .bind(after)
    .bind(to)
    .fetch_all(connection)
    .await
}

/// A row outside every commit's reach: at or below zero, or beyond the head.
///
/// Beyond the head is only wrong while no append runs, so the head is read again
/// in the same statement.
async fn stray_row(
    connection: &mut PgConnection,
    shard: i16,
) -> Result<Option<ChainFault>, sqlx::Error> {
    let position: Option<i64> = sqlx::query_scalar(
        "select e.position from (select shard, position from reading \
                                 union all select shard, position from non_reading \
                                 union all select shard, position from reading_context) e \
         where e.shard = $1 and (e.position <= 0 \
            or e.position > (select position from shard_head where shard = $1)) \
         order by e.position limit 1",
    )
    .bind(shard)
    .fetch_optional(connection)
    .await?;
    Ok(position.map(|position| ChainFault::Stray { shard, position }))
}

/// A series outside every commit's reach, as [`stray_row`].
async fn stray_series(
    connection: &mut PgConnection,
    shard: i16,
) -> Result<Option<ChainFault>, sqlx::Error> {
    let series: Option<i32> = sqlx::query_scalar(
        "select s.series from series s \
         where s.shard = $1 and (s.series <= 0 \
            or s.series > (select series_committed from shard_head where shard = $1)) \
         order by s.series limit 1",
    )
    .bind(shard)
    .fetch_optional(connection)
    .await?;
    Ok(series.map(|series| ChainFault::StraySeries { shard, series }))
}
