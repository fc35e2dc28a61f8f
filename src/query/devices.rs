//! Devices: when each was last heard of, how often it should be, and how often it was.
//!
//! Guarantees that what a device "should" is either what was registered for it or what it
//! has itself shown, by ten gaps at least, and says which; else nothing is expected of it.
//! Counts what was received, also what was retracted since. The coverage knows minutes and
//! nothing finer: who sends every second is expected each minute.

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use super::{AnswerPart, fresh};
use crate::log::Log;
use crate::projection::{SNAPSHOT, begin_snapshot};

/// How far back from its last reading a device's coverage looks.
pub const COVERAGE_HOURS: i64 = 24;
/// How far back from its last reading the gaps between readings are looked at one by one.
/// Who sends more seldom than every three minutes is known by the minutes it was heard in.
const GAPS_MINUTES: i32 = 30;
/// By fewer gaps nothing is learnt.
const GAPS_MIN: i64 = 10;

/// A device at a patient.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct Device {
    /// Which.
    pub device_id: String,
    /// At whom.
    pub patient_id: String,
    /// When it last measured, by its clock.
    pub last_seen: DateTime<Utc>,
    /// When a reading of its last hours was last recorded, by ours.
    pub last_recorded: Option<DateTime<Utc>>,
    /// Readings of these hours.
    pub readings: i64,
    /// Of them.
    pub suspects: i64,
    /// The shortest time from measured to recorded in these hours, in seconds. Below zero
    /// the device's clock is ahead by at least that much.
    pub delay_min_seconds: Option<f64>,
    /// What was registered, in seconds.
    pub registered_seconds: Option<f64>,
    /// The usual gap of its last readings, if there were enough.
    gap_seconds: Option<f64>,
    /// The hours that have readings, oldest first, as in `minutes`.
    starts: Vec<DateTime<Utc>>,
    /// A bit for each minute of these hours that has a reading.
    minutes: Vec<i64>,
}

/// How often a device should be heard of, and how often it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coverage {
    /// Between two of its readings.
    pub interval_seconds: f64,
    /// Registered, or learnt from its readings.
    pub is_registered: bool,
    /// The share of the readings that were expected since its first one of these hours,
    /// until its last, 0 to 1.
    pub share: f64,
}

impl Device {
    /// `None` when it was silent for all these hours, as far as is known, or when nothing was
    /// registered and it has not shown enough to learn from.
    pub fn coverage(&self) -> Option<Coverage> {
        let base = self.starts.first()?.timestamp() / 60;
        // The minutes that it was heard in, counted from its first hour.
        let heard: Vec<i64> = self
            .starts
            .iter()
            .zip(&self.minutes)
            .flat_map(|(start, minutes)| {
                let hour = start.timestamp() / 60 - base;
                (0..60).filter(move |n| minutes >> n & 1 == 1).map(move |n| hour + n)
            })
            .collect();
        let (first, last) = (*heard.first()?, *heard.last()?);
        let learnt = || self.gap_seconds.map(as_people_set_it).or_else(|| usual_seconds(&heard));
        let interval_seconds = self.registered_seconds.or_else(learnt)?;
        // In turns of the interval, or of a minute, which is as fine as is known.
        let turn = (interval_seconds / 60.0).max(1.0);
        let mut turns: Vec<i64> =
            heard.iter().map(|minute| ((minute - first) as f64 / turn).round() as i64).collect();
        turns.dedup();
        let expected = ((last - first) as f64 / turn).round() + 1.0;
        let share = (turns.len() as f64 / expected).min(1.0);
        Some(Coverage { interval_seconds, is_registered: self.registered_seconds.is_some(), share })
    }
}

/// What lies most often between two readings, by the minutes that it was heard in: the
/// median of the gaps, so that a night without the device does not count.
fn usual_seconds(heard: &[i64]) -> Option<f64> {
    let mut gaps: Vec<i64> = heard.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    let is_enough = gaps.len() as i64 >= GAPS_MIN;
    gaps.get(gaps.len() / 2).filter(|_| is_enough).map(|minutes| *minutes as f64 * 60.0)
}

/// A gap without the jitter of a device's clock: no device is set to 1.0004 s.
fn as_people_set_it(seconds: f64) -> f64 {
    let parts = match seconds {
        s if s >= 10.0 => 1.0,
        s if s >= 1.0 => 10.0,
        _ => 1_000.0,
    };
    (seconds * parts).round() / parts
}

/// Which devices are wanted.
#[derive(Clone, Debug, Default)]
pub struct DeviceFilter {
    /// Only this one.
    pub device_id: Option<String>,
    /// Only at this patient.
    pub patient_id: Option<String>,
    /// Only these, if any are named.
    pub patients: Option<Vec<String>>,
    /// Only those after this place: a device and a patient.
    pub after: Option<(String, String)>,
    /// How many at most.
    pub limit: i64,
}

/// A page of devices, and whether it is fresh.
pub async fn list(
    log: &Log,
    tenant: &str,
    filter: &DeviceFilter,
) -> Result<(Vec<Device>, bool), sqlx::Error> {
    let shards: Vec<i16> = match &filter.patient_id {
        Some(patient_id) => vec![log.shard_of(tenant, patient_id)],
        None => log.shards().collect(),
    };
    let fresh = fresh(log, &shards, &[AnswerPart::Devices, AnswerPart::Records]).await?;
    let (device, patient) = filter.after.clone().unzip();
    let mut tx =
        begin_snapshot(log.pool(), SNAPSHOT, &["device", "device_hour", "patient"]).await?;
    let devices = sqlx::query_as(include_str!("devices.sql"))
        .bind(shards)
        .bind(tenant)
        .bind(&filter.device_id)
        .bind(&filter.patient_id)
        .bind(device)
        .bind(patient)
        .bind(filter.limit)
        .bind(COVERAGE_HOURS as f64)
        .bind(GAPS_MINUTES)
        .bind(GAPS_MIN)
        .bind(&filter.patients)
        .fetch_all(&mut *tx)
        .await?;
    // Rolled back when it is given back, which is not waited for.
    drop(tx);
    Ok((devices, fresh))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn device(minutes: &[(i64, i64)], registered_seconds: Option<f64>) -> Device {
        let at = |hour| DateTime::UNIX_EPOCH + TimeDelta::hours(hour);
        Device {
            device_id: "d".into(),
            patient_id: "p".into(),
            last_seen: at(0),
            last_recorded: None,
            readings: 0,
            suspects: 0,
            delay_min_seconds: None,
            registered_seconds,
            gap_seconds: None,
            starts: minutes.iter().map(|(hour, _)| at(*hour)).collect(),
            minutes: minutes.iter().map(|(_, minutes)| *minutes).collect(),
        }
    }

    /// Bits of every `n`th minute of an hour.
    fn every(n: usize) -> i64 {
        (0..60).step_by(n).map(|minute| 1 << minute).sum()
    }

    #[track_caller]
    fn check(device: &Device, interval_seconds: f64, share: f64) {
        let found = device.coverage().unwrap();
        assert_eq!(found.interval_seconds, interval_seconds);
        assert!((found.share - share).abs() < 0.001, "{found:?}");
    }

    #[test]
    fn coverage_is_the_share_of_what_was_expected_by_what_was_learnt_or_registered() {
        let all = every(1);
        check(&device(&[(0, all), (1, all)], None), 60.0, 1.0);
        // A quarter of an hour is missing.
        check(&device(&[(0, all & !(0x7fff << 20)), (1, all)], None), 60.0, 105.0 / 120.0);
        // An hour is missing.
        check(&device(&[(0, all), (2, all)], None), 60.0, 120.0 / 180.0);
        check(&device(&[(0, every(5)), (1, every(5))], None), 300.0, 1.0);
        // The hours of a day but one.
        let hours: Vec<(i64, i64)> = (0..13).filter(|n| *n != 5).map(|n| (n, 1)).collect();
        check(&device(&hours, None), 3600.0, 12.0 / 13.0);
        check(&device(&[(0, every(5)), (1, every(5))], Some(60.0)), 60.0, 24.0 / 116.0);
        check(&device(&[(0, 1 << 7)], Some(60.0)), 60.0, 1.0);
        // Ten gaps of the minutes are enough, and nine are not.
        check(&device(&[(0, 0x7ff)], None), 60.0, 1.0);
        assert_eq!(device(&[(0, 0x3ff)], None).coverage(), None);
        assert_eq!(device(&[], None).coverage(), None);
    }

    #[test]
    fn gaps_that_were_looked_at_one_by_one_go_before_minutes() {
        let learnt = |gap_seconds| Device { gap_seconds, ..device(&[(0, every(1))], None) };
        check(&learnt(Some(1.0004)), 1.0, 1.0);
        check(&learnt(Some(0.0101)), 0.01, 1.0);
        check(&learnt(Some(89.98)), 90.0, 1.0);
    }
}
