//! Partitions of the log: months, and years for what is long past.
//!
//! Guarantees that after [`KnownPartitions::ensure`] an insert for these times finds its
//! partition, and that whatever clocks say there is at most one a year before the
//! months begin. Does not empty any: `archive` does.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, Utc};
use parking_lot::RwLock;
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::timeouts::{GuardedConnection, on_connection};

/// Times before this year share one partition.
const FIRST_YEAR: i32 = 2000;
/// The last year that PostgreSQL's and RFC 3339's texts both write with four digits.
const LAST_YEAR: i32 = 9999;
/// Months made before they are needed, beside the present one.
const MONTHS_AHEAD: usize = 2;

/// The stretch of time of one partition, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    year: i32,
    /// 1 to 12; `None` is the whole year.
    month: Option<u32>,
}

impl Span {
    /// The month of a time, or its year if that lies before `months_from`, or `None`
    /// where the one old partition serves.
    pub fn of(t: DateTime<Utc>, months_from: i32) -> Option<Span> {
        let month = (t.year() >= months_from).then(|| t.month());
        (t.year() >= FIRST_YEAR).then(|| Span { year: t.year(), month })
    }

    /// The partition of a name, as [`Span::table`] writes it.
    pub fn of_table(name: &str) -> Option<Span> {
        let text = name.strip_prefix("reading_")?;
        let (year, month) = match text.split_once('_') {
            Some((year, month)) => (year, Some(month.parse().ok()?)),
            None => (text, None),
        };
        let span = Span { year: year.parse().ok()?, month };
        let known = (FIRST_YEAR..=LAST_YEAR).contains(&span.year)
            && month.is_none_or(|month| (1..=12).contains(&month));
        (known && span.table() == name).then_some(span)
    }

    /// The one after this one, as long.
    pub fn next(self) -> Span {
        match self.month {
            Some(12) => Span { year: self.year + 1, month: Some(1) },
            Some(month) => Span { month: Some(month + 1), ..self },
            None => Span { year: self.year + 1, month: None },
        }
    }

    /// `reading_2026_01`, or `reading_2019`.
    pub fn table(self) -> String {
        match self.month {
            Some(month) => format!("reading_{:04}_{month:02}", self.year),
            None => format!("reading_{:04}", self.year),
        }
    }

    /// The file of an archive: `event_2026_01.parquet`. It has all that happened, and not
    /// only readings.
    pub fn file_name(self) -> String {
        format!("event_{}.parquet", self.to_string().replace('-', "_"))
    }

    /// The first moment.
    pub fn since(self) -> DateTime<Utc> {
        let day = NaiveDate::from_ymd_opt(self.year, self.month.unwrap_or(1), 1);
        day.map_or(DateTime::<Utc>::MAX_UTC, |day| day.and_time(NaiveTime::MIN).and_utc())
    }

    /// The first moment after it.
    pub fn until(self) -> DateTime<Utc> {
        self.next().since()
    }
}

/// Not a month, and not a year.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no month: write it as 2026-01")]
pub struct BadSpan(String);

impl FromStr for Span {
    type Err = BadSpan;

    fn from_str(text: &str) -> Result<Span, BadSpan> {
        let span = Span::of_table(&format!("reading_{}", text.replace('-', "_")));
        span.filter(|span| span.to_string() == text).ok_or_else(|| BadSpan(text.to_owned()))
    }
}

impl fmt::Display for Span {
    /// `2026-01`, or `2019`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}", self.year)?;
        self.month.map_or(Ok(()), |month| write!(f, "-{month:02}"))
    }
}

/// The partitions that this process knows to exist.
pub struct KnownPartitions {
    /// And of which incarnation: what was made in a lost one is not there.
    spans: RwLock<(i64, HashSet<Span>)>,
    months_from: i32,
}

impl KnownPartitions {
    pub(super) async fn load(pool: &PgPool) -> Result<KnownPartitions, sqlx::Error> {
        let months_from: i16 =
            sqlx::query_scalar("select months_from from installation").fetch_one(pool).await?;
        let spans = attached(pool).await?.into_iter().collect();
        Ok(KnownPartitions { spans: RwLock::new((0, spans)), months_from: i32::from(months_from) })
    }

    /// Times from this year on have a partition a month.
    pub(super) fn months_from(&self) -> i32 {
        self.months_from
    }

    /// Makes what is not known to be there, in this incarnation.
    pub(super) async fn ensure(
        &self,
        pool: &PgPool,
        incarnation: i64,
        times: impl Iterator<Item = DateTime<Utc>>,
    ) -> Result<(), sqlx::Error> {
        let missing: HashSet<Span> = {
            let known = self.spans.read();
            let spans = times.filter_map(|t| Span::of(t, self.months_from));
            spans.filter(|span| known.0 != incarnation || !known.1.contains(span)).collect()
        };
        for span in missing {
            let created = async |connection: &mut PgConnection| create(connection, span).await;
            on_connection(pool, &mut GuardedConnection::for_one_question(), created).await?;
            let mut known = self.spans.write();
            if known.0 != incarnation {
                *known = (incarnation, HashSet::new());
            }
            known.1.insert(span);
        }
        Ok(())
    }

    /// They are not there, whatever was known.
    pub(super) fn forget(&self, times: impl Iterator<Item = DateTime<Utc>>) {
        let mut known = self.spans.write();
        for span in times.filter_map(|t| Span::of(t, self.months_from)) {
            known.1.remove(&span);
        }
    }

    /// Makes the present month and those that come next.
    pub(super) async fn ensure_ahead(
        &self,
        pool: &PgPool,
        incarnation: i64,
        now: DateTime<Utc>,
    ) -> Result<(), sqlx::Error> {
        let first = Span::of(now, self.months_from);
        let ahead = std::iter::successors(first, |span| Some(span.next())).take(1 + MONTHS_AHEAD);
        self.ensure(pool, incarnation, ahead.map(Span::since)).await
    }
}

/// The months and years that are part of `reading` now, oldest first.
pub async fn attached<'c>(from: impl PgExecutor<'c>) -> Result<Vec<Span>, sqlx::Error> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid \
         where i.inhparent = 'reading'::regclass",
    )
    .fetch_all(from)
    .await?;
    let mut spans: Vec<Span> = tables.iter().filter_map(|table| Span::of_table(table)).collect();
    spans.sort_by_key(|span| span.since());
    Ok(spans)
}

/// Makes a partition and attaches it, in one statement: who is frozen in the middle holds
/// no one up. The log's owner does, for whoever may append (`migrations/0002_append.sql`).
pub(super) async fn create(connection: &mut PgConnection, span: Span) -> Result<(), sqlx::Error> {
    sqlx::query("select ensure_partition($1, $2)")
        .bind(span.year)
        .bind(span.month.map(|month| month as i32))
        .execute(connection)
        .await
        .map(|_| ())
}

/// The statement that makes a table the partition of a span.
pub(super) fn attach(table: &str, span: Span) -> String {
    let (since, until) = bounds(span);
    format!(
        "alter table reading attach partition {table} for values from ('{since}') to ('{until}')"
    )
}

/// A span's first moment and the first after it, as PostgreSQL reads them.
pub(super) fn bounds(span: Span) -> (String, String) {
    let text = |t: DateTime<Utc>| t.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    (text(span.since()), text(span.until()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(t: &str) -> Option<Span> {
        Span::of(t.parse().unwrap(), 2025)
    }

    #[test]
    fn months_follow_each_other_years_come_before_and_old_times_have_none() {
        let december = of("2025-12-31T23:59:59.999999Z").unwrap();
        assert_eq!(
            (december.table(), december.to_string()),
            ("reading_2025_12".into(), "2025-12".into())
        );
        assert_eq!(bounds(december).1, "2026-01-01T00:00:00Z");
        assert_eq!(december.until(), december.next().since());
        let year = of("2024-12-31T23:59:59Z").unwrap();
        assert_eq!((year.table(), year.to_string()), ("reading_2024".into(), "2024".into()));
        assert_eq!(year.until(), of("2025-01-01T00:00:00Z").unwrap().since());
        assert_eq!(of("1999-12-31T23:59:59Z"), None);
    }

    #[test]
    fn a_span_is_found_again_by_its_table_and_by_nothing_else() {
        for t in ["2025-12-01T00:00:00Z", "2007-06-01T00:00:00Z"] {
            assert_eq!(Span::of_table(&of(t).unwrap().table()), of(t));
        }
        for name in [
            "reading_before_2000",
            "reading_2025_13",
            "reading_2025_1",
            "reading_99",
            "reading_1999",
            "gone_reading_2025_12",
        ] {
            assert_eq!(Span::of_table(name), None, "{name}");
        }
    }
}
