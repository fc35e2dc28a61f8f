//! Buckets of a history from minutes and hours that are folded already.
//!
//! Guarantees the same buckets as from the log, to the bit: what is not folded yet and
//! what is no whole minute is read from the log, in one snapshot. Does not serve devices,
//! seconds, and patients whose folding stands still: then the log is asked.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{AssertSqlSafe, FromRow};

use super::BEGIN_SNAPSHOT;
use super::history::HistoryQuery;
use crate::log::{Log, Window};
use crate::projection::{ROLLUP, begin_snapshot};
use crate::vital::Vital;

/// A fold that is farther behind is not worth completing from the log.
const BEHIND_POSITIONS_MAX: i64 = 20_000;
const MINUTE_SECONDS: i64 = 60;
const HOUR_SECONDS: i64 = 3_600;

/// A stretch of time, summed up.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct Bucket {
    /// When it begins.
    pub start: DateTime<Utc>,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// The mean value.
    pub avg: f64,
    /// How many readings.
    pub count: i64,
}

/// A row of `rollup_place.sql`.
#[derive(FromRow)]
struct RollupPosition {
    position: i64,
    head: i64,
    usable: bool,
}

/// The buckets, or `None` when the log has to be asked.
pub(super) async fn buckets(
    log: &Log,
    question: &HistoryQuery,
    vital: Vital,
    from: DateTime<Utc>,
    every_seconds: f64,
    limit: i64,
) -> Result<Option<Vec<Bucket>>, sqlx::Error> {
    let Some((table, seconds)) = fold_of(every_seconds) else { return Ok(None) };
    let (since, until) = (round_up(from, seconds), round_down(question.range.to, seconds));
    if question.device.is_some() || since >= until {
        return Ok(None);
    }
    let shard = log.shard_of(&question.tenant, &question.patient_id);
    let mut tx = begin_snapshot(log.pool(), BEGIN_SNAPSHOT, &[table]).await?;
    let place: Option<RollupPosition> = sqlx::query_as(include_str!("rollup_place.sql"))
        .bind(shard)
        .bind(&question.tenant)
        .bind(&question.patient_id)
        .bind(ROLLUP.consumer)
        .fetch_optional(&mut *tx)
        .await?;
    let usable = |place: &RollupPosition| {
        place.usable && place.head - place.position <= BEHIND_POSITIONS_MAX
    };
    let Some(place) = place.filter(usable) else {
        tx.rollback().await?;
        return Ok(None);
    };
    let unfolded = Window::between(&mut tx, shard, place.position, place.head).await?;
    let sql = include_str!("rollup.sql").replace("series_minute", table);
    let rows = sqlx::query_as(AssertSqlSafe(sql))
        .bind(shard)
        .bind(&question.tenant)
        .bind(&question.patient_id)
        .bind(vital.name())
        .bind(from)
        .bind(question.range.to)
        .bind(every_seconds)
        .bind(since)
        .bind(until)
        .bind(place.position)
        .bind(unfolded.since)
        .bind(unfolded.until)
        .bind(limit)
        .fetch_all(&mut *tx)
        .await?;
    tx.rollback().await?;
    Ok(Some(rows))
}

/// The table of the longest rows that fill buckets wholly, and its length.
fn fold_of(every_seconds: f64) -> Option<(&'static str, i64)> {
    let fits = |seconds: i64| every_seconds % seconds as f64 == 0.0;
    match () {
        () if fits(HOUR_SECONDS) => Some(("series_hour", HOUR_SECONDS)),
        () if fits(MINUTE_SECONDS) => Some(("series_minute", MINUTE_SECONDS)),
        () => None,
    }
}

fn round_down(time: DateTime<Utc>, seconds: i64) -> DateTime<Utc> {
    let over = time.timestamp_micros().rem_euclid(seconds * 1_000_000);
    time - TimeDelta::microseconds(over)
}

fn round_up(time: DateTime<Utc>, seconds: i64) -> DateTime<Utc> {
    let down = round_down(time, seconds);
    if down == time { time } else { down + TimeDelta::seconds(seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_minutes_lie_inside_of_what_is_asked_for() {
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        for (t, down, up) in [
            ("2026-03-01T10:20:00Z", "2026-03-01T10:20:00Z", "2026-03-01T10:20:00Z"),
            ("2026-03-01T10:20:00.000001Z", "2026-03-01T10:20:00Z", "2026-03-01T10:21:00Z"),
            ("2026-03-01T10:20:59.999999Z", "2026-03-01T10:20:00Z", "2026-03-01T10:21:00Z"),
        ] {
            assert_eq!((round_down(time(t), 60), round_up(time(t), 60)), (time(down), time(up)));
        }
        assert_eq!(fold_of(3_600.0).map(|(_, seconds)| seconds), Some(3_600));
        assert_eq!(fold_of(5_400.0).map(|(_, seconds)| seconds), Some(60));
        assert_eq!(fold_of(90.0).map(|(_, seconds)| seconds), None);
        assert_eq!(fold_of(60.5).map(|(_, seconds)| seconds), None);
    }
}
