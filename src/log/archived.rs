//! Months whose readings have left the database.
//!
//! Guarantees that a month is in `archived_month` exactly while its partition is the
//! thin one: both change in one transaction (`exchange.rs`). What a process holds of
//! it is a cache that may be late; the partition's constraint never is.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use parking_lot::RwLock;
use sqlx::{FromRow, PgPool};

use super::partition::Span;

/// The constraint of a thin partition, which refuses every insert.
pub(super) const CONSTRAINT: &str = "month_archived";

/// Where an archived month is, and what it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedMonth {
    /// Which.
    pub span: Span,
    /// Of the file: a path, or `s3://…`.
    pub location: String,
    /// In the file.
    pub rows: i64,
    /// Of them, also in the table.
    pub kept: i64,
    /// Of the file.
    pub bytes: i64,
    /// The file's SHA-256.
    pub file_hash: Vec<u8>,
    /// SHA-256 over its rows' digests, in order.
    pub rows_hash: Vec<u8>,
    /// Its last position in each shard, from 0 on; 0 where it has none.
    pub positions_to: Vec<i64>,
}

#[derive(FromRow)]
struct Found {
    partition: String,
    location: String,
    rows: i64,
    kept: i64,
    bytes: i64,
    file_hash: Vec<u8>,
    rows_hash: Vec<u8>,
    positions_to: Vec<i64>,
}

/// Every archived month, oldest first.
pub async fn archived_months(pool: &PgPool) -> Result<Vec<ArchivedMonth>, sqlx::Error> {
    let found: Vec<Found> =
        sqlx::query_as("select * from archived_month order by since").fetch_all(pool).await?;
    found
        .into_iter()
        .map(|found| {
            let span = Span::of_table(&found.partition).ok_or_else(|| {
                sqlx::Error::Decode(format!("{} is no month's partition", found.partition).into())
            })?;
            Ok(ArchivedMonth {
                span,
                location: found.location,
                rows: found.rows,
                kept: found.kept,
                bytes: found.bytes,
                file_hash: found.file_hash,
                rows_hash: found.rows_hash,
                positions_to: found.positions_to,
            })
        })
        .collect()
}

/// The archived months as one process knows them: those that refuse readings.
#[derive(Clone, Debug, Default)]
pub struct Archived(Arc<[RefusedMonth]>);

/// A month with its moments, which are looked at for every reading.
#[derive(Clone, Copy, Debug)]
struct RefusedMonth {
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    span: Span,
}

impl Archived {
    /// The archived month that a time lies in.
    pub fn at(&self, t: DateTime<Utc>) -> Option<Span> {
        let after = self.0.partition_point(|month| month.since <= t);
        let month = self.0.get(after.checked_sub(1)?)?;
        (t < month.until).then_some(month.span)
    }

    /// The first archived month that a stretch of time touches, its end not included.
    pub fn within(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Option<Span> {
        let touched = self.0.iter().find(|month| month.since < to && from < month.until);
        touched.map(|month| month.span)
    }
}

impl FromIterator<Span> for Archived {
    fn from_iter<T: IntoIterator<Item = Span>>(spans: T) -> Archived {
        let with_moments =
            |span: Span| RefusedMonth { since: span.since(), until: span.until(), span };
        let mut months: Vec<RefusedMonth> = spans.into_iter().map(with_moments).collect();
        months.sort_unstable_by_key(|month| month.since);
        Archived(months.into())
    }
}

/// What all clones of a log share of it.
#[derive(Default)]
pub(super) struct Cache(RwLock<Archived>);

impl Cache {
    pub(super) fn get(&self) -> Archived {
        self.0.read().clone()
    }

    pub(super) async fn reload(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let months = archived_months(pool).await?;
        *self.0.write() = months.iter().map(|month| month.span).collect();
        Ok(())
    }
}

/// Whether an insert met a thin partition.
pub(super) fn refused(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.constraint() == Some(CONSTRAINT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_refused_from_its_months_first_moment_to_its_last() {
        let archived: Archived =
            ["2026-02", "2019", "2025-12"].into_iter().map(|text| text.parse().unwrap()).collect();
        for (t, span) in [
            ("2018-12-31T23:59:59.999999Z", None),
            ("2019-01-01T00:00:00Z", Some("2019")),
            ("2019-12-31T23:59:59.999999Z", Some("2019")),
            ("2020-01-01T00:00:00Z", None),
            ("2025-12-31T23:59:59.999999Z", Some("2025-12")),
            ("2026-01-01T00:00:00Z", None),
            ("2026-02-15T00:00:00Z", Some("2026-02")),
            ("2026-03-01T00:00:00Z", None),
        ] {
            let at = archived.at(t.parse().unwrap());
            assert_eq!(at.map(|span| span.to_string()).as_deref(), span, "{t}");
        }
    }
}
