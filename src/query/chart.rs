//! A history thinned to as many points as a chart can show.
//!
//! Guarantees that every point is a reading that was measured, the first and the last
//! among them, in one snapshot, and that the shape is kept: of each stretch the reading
//! that makes the largest triangle with its neighbours stays (Steinarsson 2013,
//! "Downsampling Time Series for Visual Representation": largest triangle, three
//! buckets). Memory is two stretches, not the history.

use std::collections::VecDeque;

use futures_util::TryStreamExt;
use sqlx::PgConnection;

use super::BEGIN_SNAPSHOT;
use super::history::HistoryQuery;
use super::reach::Unanswered;
use super::state::Newest;
use crate::log::{Log, answered};
use crate::vital::Vital;

/// The most readings that are thinned at once.
pub const READINGS_MAX: i64 = 5_000_000;
/// The most readings of a stretch, of which one stays: what is held.
pub const STRETCH_MAX: i64 = 50_000;

/// Why there is no chart.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// There is no answer.
    #[error("{0}")]
    Unanswered(#[from] Unanswered),
    /// It would take too long, or too much memory.
    #[error(
        "{0} readings are too many for so few points: ask for a shorter time, or for more points"
    )]
    TooMany(i64),
}

impl From<sqlx::Error> for ChartError {
    fn from(error: sqlx::Error) -> ChartError {
        ChartError::Unanswered(error.into())
    }
}

/// At most so many readings, three or more, of one vital.
pub async fn downsample(
    log: &Log,
    question: &HistoryQuery,
    vital: Vital,
    points: usize,
) -> Result<Vec<Newest>, ChartError> {
    let reach = question.reach(question.range.from);
    reach.check(log).await?;
    let mut tx = log.pool().begin_with(BEGIN_SNAPSHOT).await?;
    let count = answered(count(log, &mut tx, question, vital)).await?;
    let wanted = i64::try_from(points).unwrap_or(i64::MAX);
    if count > READINGS_MAX || count / wanted > STRETCH_MAX {
        return Err(ChartError::TooMany(count));
    }
    let mut chart = Chart::new(usize::try_from(count).unwrap_or(usize::MAX), points);
    let mut rows = sqlx::query_as::<_, Newest>(include_str!("chart.sql"))
        .bind(log.shard_of(&question.tenant, &question.patient_id))
        .bind(&question.tenant)
        .bind(&question.patient_id)
        .bind(vital.name())
        .bind(question.range.from)
        .bind(question.range.to)
        .bind(&question.device)
        .fetch(&mut *tx);
    while let Some(row) = answered(rows.try_next()).await? {
        chart.add(row);
    }
    drop(rows);
    tx.rollback().await?;
    reach.check(log).await?;
    Ok(chart.finish())
}

async fn count(
    log: &Log,
    connection: &mut PgConnection,
    question: &HistoryQuery,
    vital: Vital,
) -> Result<i64, sqlx::Error> {
    let sql = concat!("select count(*) from (", include_str!("chart.sql"), ") c");
    sqlx::query_scalar(sql)
        .bind(log.shard_of(&question.tenant, &question.patient_id))
        .bind(&question.tenant)
        .bind(&question.patient_id)
        .bind(vital.name())
        .bind(question.range.from)
        .bind(question.range.to)
        .bind(&question.device)
        .fetch_one(connection)
        .await
}

/// What has a place in a chart.
trait Point {
    fn xy(&self) -> (f64, f64);
}

impl Point for Newest {
    fn xy(&self) -> (f64, f64) {
        (self.measured_at.timestamp_micros() as f64, self.value)
    }
}

/// Largest triangle, three buckets, over points that come one by one.
struct Chart<P> {
    count: usize,
    points: usize,
    /// Points so far.
    seen: usize,
    /// Stretches whose point is not chosen yet: this one, and the one being filled.
    stretches: VecDeque<Vec<P>>,
    chosen: Vec<P>,
}

impl<P: Point> Chart<P> {
    /// Of `count` points at most `points` stay, three or more.
    fn new(count: usize, points: usize) -> Chart<P> {
        let points = points.max(3);
        Chart { count, points, seen: 0, stretches: VecDeque::new(), chosen: Vec::new() }
    }

    /// The stretch of the point at an index: 0 is the first point alone, the last one the
    /// last point alone.
    fn stretch(&self, index: usize) -> usize {
        match index {
            0 => 0,
            last if last + 1 >= self.count => self.points - 1,
            between => 1 + (between - 1) * (self.points - 2) / (self.count - 2),
        }
    }

    fn add(&mut self, point: P) {
        let index = self.seen;
        self.seen += 1;
        if self.count <= self.points || index == 0 {
            self.chosen.push(point);
            return;
        }
        let begins = index == 1 || self.stretch(index) != self.stretch(index - 1);
        if begins {
            self.stretches.push_back(Vec::new());
        }
        if let Some(filling) = self.stretches.back_mut() {
            filling.push(point);
        }
        // A stretch is complete when the next one is, too: its mean is needed.
        if self.stretches.len() > 2 {
            self.choose();
        }
    }

    fn choose(&mut self) {
        let Some(stretch) = self.stretches.pop_front() else { return };
        let next = self.stretches.front().map_or(&[][..], Vec::as_slice);
        let before = self.chosen.last().map(Point::xy);
        let chosen = largest(before.unwrap_or_default(), stretch, mean(next));
        self.chosen.extend(chosen);
    }

    fn finish(mut self) -> Vec<P> {
        while !self.stretches.is_empty() {
            self.choose();
        }
        self.chosen
    }
}

fn mean<P: Point>(points: &[P]) -> Option<(f64, f64)> {
    let sum = points.iter().map(Point::xy).reduce(|a, b| (a.0 + b.0, a.1 + b.1))?;
    let count = points.len() as f64;
    Some((sum.0 / count, sum.1 / count))
}

/// The point that makes the largest triangle; the last one where there is no next
/// stretch, which is the last point of all.
fn largest<P: Point>(a: (f64, f64), points: Vec<P>, c: Option<(f64, f64)>) -> Option<P> {
    let Some(c) = c else { return points.into_iter().next_back() };
    let area = |point: &P| {
        let b = point.xy();
        ((a.0 - c.0) * (b.1 - a.1) - (a.0 - b.0) * (c.1 - a.1)).abs()
    };
    // The first of those that are equal, as others do it.
    let mut best: Option<(f64, P)> = None;
    for point in points {
        let area = area(&point);
        if best.as_ref().is_none_or(|(most, _)| area > *most) {
            best = Some((area, point));
        }
    }
    best.map(|(_, point)| point)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Point for (f64, f64) {
        fn xy(&self) -> (f64, f64) {
            *self
        }
    }

    fn thinned(all: &[(f64, f64)], points: usize) -> Vec<(f64, f64)> {
        let mut chart = Chart::new(all.len(), points);
        all.iter().for_each(|point| chart.add(*point));
        chart.finish()
    }

    #[test]
    fn a_spike_among_many_equal_readings_is_kept() {
        let mut all: Vec<(f64, f64)> = (0..10_000).map(|n| (f64::from(n), 80.0)).collect();
        all[4_321].1 = 171.0;
        all[7_777].1 = 12.0;
        let chart = thinned(&all, 50);
        assert!(chart.contains(&all[4_321]) && chart.contains(&all[7_777]), "{chart:?}");
        assert_eq!(chart.len(), 50);
    }

    /// The algorithm as its author wrote it, over an array.
    fn of_the_paper(data: &[(f64, f64)], points: usize) -> Vec<(f64, f64)> {
        let stretch = |i: usize| 1 + (i - 1) * (points - 2) / (data.len() - 2);
        let of = |n: usize| -> Vec<(f64, f64)> {
            match n {
                _ if n + 1 == points => vec![data[data.len() - 1]],
                _ => (1..data.len() - 1).filter(|i| stretch(*i) == n).map(|i| data[i]).collect(),
            }
        };
        let mut chosen = vec![data[0]];
        for n in 1..points - 1 {
            let (a, next) = (chosen[n - 1], of(n + 1));
            let len = next.len() as f64;
            let c = (
                next.iter().map(|p| p.0).sum::<f64>() / len,
                next.iter().map(|p| p.1).sum::<f64>() / len,
            );
            let area =
                |b: &(f64, f64)| ((a.0 - c.0) * (b.1 - a.1) - (a.0 - b.0) * (c.1 - a.1)).abs();
            let mut most = (-1.0, a);
            for b in of(n) {
                if area(&b) > most.0 {
                    most = (area(&b), b);
                }
            }
            chosen.push(most.1);
        }
        chosen.push(data[data.len() - 1]);
        chosen
    }

    proptest! {
        #[test]
        fn one_by_one_it_is_the_algorithm_over_an_array(
            values in prop::collection::vec(0.0..200.0_f64, 4..400),
            points in 3_usize..60,
        ) {
            let all: Vec<(f64, f64)> =
                values.iter().enumerate().map(|(n, v)| (n as f64 * 1e6, *v)).collect();
            let chart = thinned(&all, points);
            if all.len() <= points {
                prop_assert_eq!(chart, all);
            } else {
                prop_assert_eq!(chart.len(), points);
                prop_assert_eq!(chart, of_the_paper(&all, points));
            }
        }
    }
}
