//! Slices: which part of the history is read at one time, and in which pages it lies.
//!
//! Guarantees that the slices of a question hold each reading once that was there when it
//! was asked, and that a part of a slice reads no page twice. What comes meanwhile may be
//! in them or not. How many rows a slice has is an expectation: whoever reads it counts.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

use super::query::BacktestQuery;
use crate::log::copy::EPOCH_MICROS;
use crate::log::partition::Span;

/// A shorter slice is not halved because of an expectation.
const SLICE_MIN: TimeDelta = TimeDelta::seconds(1);

/// Pages of which it is looked up which times they hold, 8 MB.
const ZONE_BLOCKS: i64 = 1024;

/// Before it all of time is one partition.
const FIRST_SPAN: DateTime<Utc> = DateTime::from_timestamp_micros(EPOCH_MICROS).unwrap();

/// A stretch of time within one partition of the log.
#[derive(Clone, Debug)]
pub struct Slice {
    table: String,
    /// Pages of it.
    blocks: i64,
    /// Which times lie where, once somebody has looked.
    zones: Option<Arc<[Zone]>>,
    /// What the partition can hold.
    whole: (DateTime<Utc>, DateTime<Utc>),
    /// Measured from here on.
    from: DateTime<Utc>,
    /// Until here, not included.
    to: DateTime<Utc>,
}

/// Pages of a table, as PostgreSQL numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    from: i64,
    /// Not included. The last part has no end, for the table grows.
    to: Option<i64>,
}

/// Pages with the times of what they held when somebody looked.
#[derive(Clone, Copy, Debug)]
struct Zone {
    pages: Pages,
    /// The first and the last, if there was anything. What has no end is always read.
    times: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

impl Slice {
    /// A question's slices: the partitions that it reaches into, oldest first.
    pub async fn all(pool: &PgPool, question: &BacktestQuery) -> Result<Vec<Slice>, sqlx::Error> {
        let tables: Vec<(String, i64)> =
            sqlx::query_as(include_str!("tables.sql")).fetch_all(pool).await?;
        let slice = |(table, blocks): (String, i64)| {
            let whole = match Span::of_table(&table) {
                Some(span) => (span.since(), span.until()),
                None => (DateTime::<Utc>::MIN_UTC, FIRST_SPAN),
            };
            let (from, to) = (whole.0.max(question.from), whole.1.min(question.to));
            (from < to && blocks > 0).then_some(Slice {
                table,
                blocks,
                zones: None,
                whole,
                from,
                to,
            })
        };
        let mut slices: Vec<Slice> = tables.into_iter().filter_map(slice).collect();
        slices.sort_by_key(|slice| slice.from);
        Ok(slices)
    }

    /// Both halves; `None` when it is too short for that.
    pub fn halves(&self) -> Option<[Slice; 2]> {
        let length = self.to - self.from;
        if length < SLICE_MIN { None } else { self.cut(self.from + length / 2) }
    }

    /// What is before a moment and what is not; `None` when that is all on one side.
    pub fn cut(&self, at: DateTime<Utc>) -> Option<[Slice; 2]> {
        let parts = [Slice { to: at, ..self.clone() }, Slice { from: at, ..self.clone() }];
        (self.from < at && at < self.to).then_some(parts)
    }

    /// Its first microsecond, and what is after it: most of it was measured then.
    pub fn first_moment(&self) -> Option<[Slice; 2]> {
        self.cut(self.from + TimeDelta::microseconds(1))
    }

    /// How many rows PostgreSQL expects.
    pub async fn estimate(
        &self,
        pool: &PgPool,
        question: &BacktestQuery,
        series: &str,
    ) -> Result<u64, sqlx::Error> {
        let sql = format!("explain (format json) {}", self.sql(question, series));
        let plan: Value = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await?;
        Ok(plan.pointer("/0/Plan/Plan Rows").and_then(Value::as_u64).unwrap_or_default())
    }

    /// Looks which times lie in which pages, so that each of its parts is read where it is
    /// and not everywhere: readings come mostly in the order of time.
    pub async fn look_where(&mut self, pool: &PgPool, at_once: usize) -> Result<(), sqlx::Error> {
        let zones = self.parts(usize::try_from(self.blocks / ZONE_BLOCKS).unwrap_or(0) + 1);
        let looks = zones.into_iter().flatten().map(|pages| {
            let sql = format!(
                "select min(occurred_at), max(occurred_at) from {} r where{}",
                self.table,
                pages.sql()
            );
            async move {
                let times: (Option<DateTime<Utc>>, Option<DateTime<Utc>>) =
                    sqlx::query_as(AssertSqlSafe(sql)).fetch_one(pool).await?;
                Ok::<_, sqlx::Error>(Zone { pages, times: times.0.zip(times.1) })
            }
        });
        let zones = futures_util::stream::iter(looks).buffered(at_once);
        self.zones = Some(zones.try_collect::<Vec<Zone>>().await?.into());
        Ok(())
    }

    /// Its pages in as many parts, each in as few pieces as may be.
    pub fn parts(&self, parts: usize) -> Vec<Vec<Pages>> {
        let Some(zones) = &self.zones else {
            let of = |n: usize| self.blocks * n as i64 / parts as i64;
            let part = |n| Pages { from: of(n), to: (n + 1 < parts).then(|| of(n + 1)) };
            return (0..parts).map(|n| vec![part(n)]).collect();
        };
        let is_ours = |zone: &&Zone| {
            zone.pages.to.is_none()
                || zone.times.is_some_and(|(first, last)| first < self.to && self.from <= last)
        };
        let ours: Vec<Pages> = zones.iter().filter(is_ours).map(|zone| zone.pages).collect();
        let of = |n: usize| ours.len() * n / parts;
        let part = |n| joined(ours.get(of(n)..of(n + 1)).unwrap_or_default());
        (0..parts).map(part).collect()
    }

    /// What is asked of it, of the series that `which` names.
    ///
    /// Asks the partition itself and not the log, so that what its bounds say already is
    /// not compared again for every row.
    ///
    /// What is known before or not needed is not sent: putting a column into words costs
    /// a fifth of a read. Of who measured what a row has the number only
    /// (`Directory`).
    pub fn sql(&self, question: &BacktestQuery, series: &str) -> String {
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let (suspect, sent) = match question.looks_at_devices() {
            true => ("", "suspect"),
            false => (" and not suspect", "null"),
        };
        let mut sql = format!(
            "select r.shard, r.series, occurred_at, value, position, {sent}, quality \
             from {} r where ({series}){suspect}",
            self.table,
        );
        if self.from > self.whole.0 {
            sql += &format!(" and occurred_at >= '{}'", time(self.from));
        }
        if self.to < self.whole.1 {
            sql += &format!(" and occurred_at < '{}'", time(self.to));
        }
        sql
    }
}

impl Pages {
    /// As a condition.
    pub fn sql(self) -> String {
        let to = self.to.map_or(String::new(), |to| format!(" and r.ctid < '({to},0)'"));
        format!(" r.ctid >= '({},0)'{to}", self.from)
    }
}

/// What lies side by side as one.
fn joined(pages: &[Pages]) -> Vec<Pages> {
    let mut all: Vec<Pages> = Vec::new();
    for next in pages {
        match all.last_mut() {
            Some(last) if last.to == Some(next.from) => last.to = next.to,
            _ => all.push(*next),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(blocks: i64) -> Slice {
        let (from, to) = (FIRST_SPAN, FIRST_SPAN + TimeDelta::days(31));
        Slice {
            table: "reading_2000_01".to_owned(),
            blocks,
            zones: None,
            whole: (from, to),
            from,
            to,
        }
    }

    #[test]
    fn a_part_of_the_time_is_read_where_it_lies_and_at_the_tables_end() {
        let day = |n| FIRST_SPAN + TimeDelta::days(n);
        let zone = |from, to, times| Zone { pages: Pages { from, to }, times };
        let zones = [
            zone(0, Some(10), Some((day(0), day(5)))),
            zone(10, Some(20), None),
            zone(20, Some(30), Some((day(4), day(9)))),
            zone(30, Some(40), Some((day(8), day(12)))),
            zone(40, None, Some((day(12), day(13)))),
        ];
        let zoned = Slice { zones: Some(zones.into()), ..slice(45) };
        let [first, second] = zoned.cut(day(8)).unwrap();
        let pages = |from, to| Pages { from, to };
        assert_eq!(
            first.parts(1),
            [vec![pages(0, Some(10)), pages(20, Some(30)), pages(40, None)]]
        );
        assert_eq!(second.parts(1), [vec![pages(20, None)]]);
        assert_eq!(second.parts(2), [vec![pages(20, Some(30))], vec![pages(30, None)]]);
        assert_eq!(second.parts(9).concat().len(), 3);
        assert!(zoned.cut(day(0)).is_none() && zoned.cut(day(31)).is_none());
        assert!(zoned.cut(day(0) + TimeDelta::milliseconds(900)).unwrap()[0].halves().is_none());
    }

    #[test]
    fn parts_hold_every_page_once_and_what_is_added_meanwhile() {
        for (blocks, parts) in [(1, 1), (1, 4), (7, 2), (100, 8)] {
            let all = slice(blocks).parts(parts);
            let all = all.concat();
            assert_eq!((all.len(), all[0].from), (parts, 0));
            assert!(all.windows(2).all(|two| two[0].to == Some(two[1].from)), "{all:?}");
            assert!(all[parts - 1].to.is_none() && all[parts - 1].from <= blocks);
        }
    }

    #[test]
    fn halves_meet_and_only_inner_bounds_are_compared() {
        let question = BacktestQuery {
            tenant: "ward".to_owned(),
            from: FIRST_SPAN,
            to: DateTime::<Utc>::MAX_UTC,
            rules: Vec::new(),
            keeps_times: false,
        };
        let [first, second] = slice(1).halves().unwrap();
        assert_eq!(first.to, second.from);
        let (first, second) = (first.sql(&question, "true"), second.sql(&question, "true"));
        assert!(first.ends_with(" and occurred_at < '2000-01-16T12:00:00.000000Z'"), "{first}");
        assert!(second.ends_with(" and occurred_at >= '2000-01-16T12:00:00.000000Z'"), "{second}");
        assert!(!slice(1).sql(&question, "true").contains("occurred_at >="));
    }
}
