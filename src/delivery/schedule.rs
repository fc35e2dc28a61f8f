//! When a delivery that failed is tried again.
//!
//! Guarantees that every delivery is tried at least once, that an alarm is not tried
//! again after [`ALARM_S_MAX`], that a record is tried at most as often as
//! [`RECORD_S`] is long, and that a Retry-After is waited for up to a cap. Pure: age
//! and jitter are arguments. Does not know of other deliveries to the same endpoint:
//! holding those back is the breaker's.

use std::time::Duration;

use super::state::words;

/// The seconds before the first attempts of an alarm.
pub const ALARM_S: [u64; 7] = [0, 1, 2, 5, 10, 20, 30];
/// The seconds before every later attempt of an alarm.
pub const ALARM_STEADY_S: u64 = 60;
/// The age in seconds at which an alarm is tried for the last time: later than this
/// it would mislead its receiver.
pub const ALARM_S_MAX: u64 = 15 * 60;

/// The seconds before each attempt of a record: the example schedule of the Standard
/// Webhooks specification (`spec/standard-webhooks.md`, "Deliverability and
/// reliability"): at once, 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h; over
/// three days in all.
pub const RECORD_S: [u64; 10] =
    [0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600];
/// The longest Retry-After in seconds that a record waits for: the schedule's own
/// longest pause.
pub const RECORD_RETRY_AFTER_S_MAX: u64 = 24 * 3600;

/// The shortest pause between two attempts of an alarm.
pub const ALARM_MS_MIN: u64 = 100;
/// The part of a record's delay that jitter takes off or adds at most.
pub const JITTER_PART: f64 = 0.2;

words! {
    /// How long, and how often, a delivery is tried.
    Schedule {
        /// A person has to come now: often, and soon over.
        Alarm = "alarm",
        /// A receiver has to know it in the end: rarely, for days.
        Record = "record",
    }
}

impl Schedule {
    /// How long to wait before the next attempt; `None` means that the delivery is dead.
    ///
    /// `attempts_made` counts those that failed, `age` is the time since the delivery
    /// was made, `retry_after` what the last answer asked for, `jitter` is uniform in
    /// 0..1.
    ///
    /// An alarm has full jitter: it is tried at any moment up to what the schedule says,
    /// but [`ALARM_MS_MIN`] later at least. A record's pauses are long enough to be spread
    /// by a fifth either way, so that the three days stay three days. Retry-After is a
    /// minimum and is only ever stretched upwards (to 120 %), so that deliveries which were
    /// held off together do not come back together.
    /// Two caps stand above that. A record waits [`RECORD_RETRY_AFTER_S_MAX`] for a
    /// Retry-After, stretched like any. An alarm waits until [`ALARM_S_MAX`] of age
    /// at most: then its last attempt is made, even if the receiver asked for longer.
    pub fn next(
        self,
        attempts_made: u32,
        age: Duration,
        retry_after: Option<Duration>,
        jitter: f64,
    ) -> Option<Duration> {
        // Also for a delivery that waited longer than its schedule, say because the
        // platform was down.
        if attempts_made == 0 {
            return Some(Duration::ZERO);
        }
        let jitter = if jitter.is_nan() { 0.5 } else { jitter.clamp(0.0, 1.0) };
        let scheduled = self.delay(attempts_made, age)?;
        let spread = match self {
            Schedule::Alarm => scheduled.mul_f64(jitter).max(Duration::from_millis(ALARM_MS_MIN)),
            Schedule::Record => scheduled.mul_f64(1.0 - JITTER_PART + 2.0 * JITTER_PART * jitter),
        };
        let cap = self.retry_after_max(age);
        let asked = retry_after.unwrap_or_default().min(cap).mul_f64(1.0 + JITTER_PART * jitter);
        let delay = spread.max(asked);
        Some(match self {
            Schedule::Alarm => delay.min(cap),
            Schedule::Record => delay,
        })
    }

    /// What the schedule alone says; `None` when it is over.
    fn delay(self, attempts_made: u32, age: Duration) -> Option<Duration> {
        let attempt = usize::try_from(attempts_made).unwrap_or(usize::MAX);
        let seconds = match self {
            Schedule::Alarm if age >= Duration::from_secs(ALARM_S_MAX) => None,
            Schedule::Alarm => Some(*ALARM_S.get(attempt).unwrap_or(&ALARM_STEADY_S)),
            Schedule::Record => RECORD_S.get(attempt).copied(),
        };
        seconds.map(Duration::from_secs)
    }

    fn retry_after_max(self, age: Duration) -> Duration {
        match self {
            Schedule::Alarm => Duration::from_secs(ALARM_S_MAX).saturating_sub(age),
            Schedule::Record => Duration::from_secs(RECORD_RETRY_AFTER_S_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Jitter that changes nothing of a record's delay.
    const NONE: f64 = 0.5;
    /// Jitter that leaves an alarm's delay as the schedule has it.
    const LATEST: f64 = 1.0;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The ages at which a delivery that always fails at once is tried.
    fn ages(schedule: Schedule, retry_after: Option<Duration>, jitter: f64) -> Vec<Duration> {
        let (mut age, mut ages) = (Duration::ZERO, Vec::new());
        while let Some(delay) = schedule.next(ages.len() as u32, age, retry_after, jitter) {
            age += delay;
            ages.push(age);
            assert!(ages.len() < 1000, "without end");
        }
        ages
    }

    #[test]
    fn an_alarm_is_tried_ever_slower_and_for_the_last_time_at_fifteen_minutes() {
        let mut expect = vec![0, 1, 3, 8, 18, 38, 68];
        expect.extend((128..900).step_by(60));
        expect.push(900);
        let expect: Vec<_> = expect.into_iter().map(s).collect();
        assert_eq!(ages(Schedule::Alarm, None, LATEST), expect);
    }

    #[test]
    fn a_record_follows_standard_webhooks_to_the_second() {
        // The column "time since start" of the specification's table.
        let expect = [
            (0, 0, 0),
            (0, 0, 5),
            (0, 5, 5),
            (0, 35, 5),
            (2, 35, 5),
            (7, 35, 5),
            (17, 35, 5),
            (31, 35, 5),
            (51, 35, 5),
            (75, 35, 5),
        ];
        let expect = expect.map(|(h, min, sec)| s(h * 3600 + min * 60 + sec));
        assert_eq!(ages(Schedule::Record, None, NONE), expect);
    }

    #[test]
    fn what_was_never_tried_is_tried_however_old_it_is() {
        for schedule in [Schedule::Alarm, Schedule::Record] {
            assert_eq!(schedule.next(0, s(1_000_000), None, 0.9), Some(s(0)));
        }
        assert_eq!(Schedule::Alarm.next(1, s(900), None, NONE), None);
        assert_eq!(Schedule::Record.next(10, s(0), None, NONE), None);
        assert_eq!(Schedule::Record.next(u32::MAX, s(0), Some(s(1)), NONE), None);
    }

    #[test]
    fn retry_after_is_a_minimum_and_never_undercut_by_jitter() {
        let next = |asked, jitter| Schedule::Alarm.next(1, s(0), Some(s(asked)), jitter);
        assert_eq!(next(0, 0.0), Some(Duration::from_millis(ALARM_MS_MIN)));
        assert_eq!(next(0, 0.5), Some(Duration::from_millis(500)));
        assert_eq!(next(30, 0.0), Some(s(30)));
        assert_eq!(next(30, 1.0), Some(s(36)));
        let next = |asked, jitter| Schedule::Record.next(4, s(0), Some(s(asked)), jitter);
        assert_eq!(next(60, NONE), Some(s(2 * 3600)));
        assert_eq!(next(3 * 3600, 0.0), Some(s(3 * 3600)));
    }

    #[test]
    fn retry_after_cannot_hold_a_delivery_for_ever() {
        assert_eq!(Schedule::Alarm.next(1, s(100), Some(Duration::MAX), 1.0), Some(s(800)));
        assert_eq!(ages(Schedule::Alarm, Some(s(3600)), 1.0), [s(0), s(900)]);
        assert_eq!(Schedule::Record.next(1, s(0), Some(Duration::MAX), 0.0), Some(s(86_400)));
    }

    #[test]
    fn a_jitter_that_is_none_does_no_harm() {
        let next = |jitter| Schedule::Alarm.next(1, s(0), None, jitter);
        assert_eq!(next(f64::NAN), Some(Duration::from_millis(500)));
        assert_eq!(next(f64::INFINITY), Some(s(1)));
        assert_eq!(next(-7.0), Some(Duration::from_millis(ALARM_MS_MIN)));
    }

    proptest! {
        #[test]
        fn any_delay_is_within_the_jitter_and_no_alarm_outlives_its_end(
            attempts in 1u32..40,
            age_s in 0u64..1200,
            jitter in 0.0..1.0f64,
        ) {
            let age = s(age_s);
            if let Some(delay) = Schedule::Alarm.next(attempts, age, None, jitter) {
                prop_assert!(age + delay <= s(ALARM_S_MAX));
                prop_assert!(delay <= s(ALARM_STEADY_S));
                let end = s(ALARM_S_MAX).saturating_sub(age);
                prop_assert!(delay >= Duration::from_millis(ALARM_MS_MIN).min(end));
            } else {
                prop_assert!(age_s >= ALARM_S_MAX);
            }
            if let Some(delay) = Schedule::Record.next(attempts, age, None, jitter) {
                let scheduled = s(RECORD_S[attempts as usize]);
                prop_assert!(delay >= scheduled.mul_f64(0.8) && delay <= scheduled.mul_f64(1.2));
            }
        }
    }
}
