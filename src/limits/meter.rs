//! One limit: how many of something each subject may have in a minute.
//!
//! Guarantees that what is refused costs nothing, that a subject's use flows back evenly
//! (GCRA, by `governor`), so that after a silence a whole minute's worth may come at
//! once, and that memory is bounded. Subjects beyond [`SUBJECTS_MAX`] are not counted:
//! a reading is worth more than the count of it. Each process counts for itself, from
//! its start. Knows nothing of HTTP.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::{Quota, RateLimiter};
use parking_lot::{Mutex, MutexGuard};

use crate::auth::Subject;

/// Subjects that one limit counts at once. One takes some 50 bytes, and looking
/// through all of them takes milliseconds.
pub const SUBJECTS_MAX: usize = 200_000;
/// The part of a limit, in percent, from which on answers are slowed down.
const SLOW_FROM_PERCENT: u64 = 80;
/// How much an answer is slowed down at the limit. It grows evenly up to there.
pub const SLOW_MS_MAX: u64 = 1_000;

/// Why something was not taken; nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// There is room for it after this long, if it is not taken before.
    For(Duration),
    /// It is more than the whole limit.
    Forever,
}

/// A limit, and who has used how much of it.
pub struct Meter<C: Clock = MonotonicClock> {
    limiter: RateLimiter<Subject, Subjects, C, NoOpMiddleware<C::Instant>>,
    /// The limiter's own, to look at without taking.
    subjects: Subjects,
    start: C::Instant,
    per_minute: NonZeroU32,
    /// How long one takes to flow back.
    each_ns: u64,
}

impl<C: Clock> Meter<C> {
    /// A limit of which nothing is used yet.
    pub fn new(per_minute: NonZeroU32, clock: C) -> Meter<C> {
        let quota = Quota::per_minute(per_minute);
        let each_ns = Nanos::from(quota.replenish_interval()).as_u64().max(1);
        let subjects = Subjects::default();
        let start = clock.now();
        let limiter = RateLimiter::new(quota, subjects.clone(), clock);
        Meter { limiter, subjects, start, per_minute, each_ns }
    }

    /// The limit.
    pub fn per_minute(&self) -> NonZeroU32 {
        self.per_minute
    }

    /// Takes `n`, or nothing.
    pub fn take(&self, subject: &Subject, n: NonZeroU32) -> Result<(), OverLimit> {
        match self.limiter.check_key_n(subject, n) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => Err(OverLimit::For(until.wait_time_from(self.limiter.clock().now()))),
            Err(_more_than_all) => Err(OverLimit::Forever),
        }
    }

    /// Where a subject stands now.
    pub fn state(&self, subject: &Subject) -> LimitState {
        let now = self.limiter.clock().now().duration_since(self.start);
        let back = self.subjects.known().get(subject).copied().unwrap_or(now);
        let whole_ns = self.each_ns * u64::from(self.per_minute.get());
        LimitState {
            per_minute: self.per_minute.get(),
            each_ns: self.each_ns,
            whole_ns,
            used_ns: back.saturating_sub(now).as_u64().min(whole_ns),
        }
    }

    /// Forgets subjects whose use has flowed back; how many are left.
    pub fn forget(&self) -> usize {
        self.limiter.retain_recent();
        self.limiter.len()
    }
}

/// How much of a limit is used, as the time that it takes to flow back. A whole limit
/// takes a minute, whatever it counts, so the states of two limits compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// The limit.
    pub per_minute: u32,
    each_ns: u64,
    whole_ns: u64,
    used_ns: u64,
}

impl LimitState {
    /// How many are left.
    pub fn remaining(&self) -> u64 {
        (self.whole_ns - self.used_ns) / self.each_ns
    }

    /// Until all is back, rounded up.
    pub fn reset_seconds(&self) -> u64 {
        self.used_ns.div_ceil(1_000_000_000)
    }

    /// How much later an answer goes out.
    pub fn slowed(&self) -> Duration {
        let from_ns = self.whole_ns * SLOW_FROM_PERCENT / 100;
        let beyond_ns = self.used_ns.saturating_sub(from_ns);
        Duration::from_millis(SLOW_MS_MAX * beyond_ns / (self.whole_ns - from_ns).max(1))
    }

    /// The one of which more is used; of two equals, this one.
    pub fn tighter(self, other: LimitState) -> LimitState {
        if other.used_ns > self.used_ns { other } else { self }
    }
}

/// When the use of each subject will have flowed back, counted from the limiter's
/// start.
#[derive(Clone, Default)]
struct Subjects(Arc<Mutex<HashMap<Subject, Nanos>>>);

impl Subjects {
    fn known(&self) -> MutexGuard<'_, HashMap<Subject, Nanos>> {
        // Nothing that runs under the lock leaves it half-done.
        self.0.lock()
    }
}

impl StateStore for Subjects {
    type Key = Subject;

    fn measure_and_replace<T, F, E>(&self, subject: &Subject, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut known = self.known();
        if let Some(back) = known.get_mut(subject) {
            let (outcome, next) = measure(Some(*back))?;
            *back = next;
            return Ok(outcome);
        }
        let (outcome, next) = measure(None)?;
        if known.len() < SUBJECTS_MAX {
            known.insert(*subject, next);
        }
        Ok(outcome)
    }
}

impl ShrinkableKeyedStateStore<Subject> for Subjects {
    fn retain_recent(&self, drop_below: Nanos) {
        self.known().retain(|_, back| *back > drop_below);
    }

    fn len(&self) -> usize {
        self.known().len()
    }

    fn is_empty(&self) -> bool {
        self.known().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn n(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).expect("more than none")
    }

    fn meter(per_minute: u32) -> (Meter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        // Not at zero, so that a time of zero means nothing.
        clock.advance(Duration::from_secs(1));
        (Meter::new(n(per_minute), clock.clone()), clock)
    }

    fn watch() -> Subject {
        Subject::new("hospital-1", "watch-7")
    }

    #[test]
    fn a_limit_is_had_at_once_and_flows_back_evenly() {
        let (meter, clock) = meter(60);
        for left in (0..60).rev() {
            assert_eq!(meter.take(&watch(), n(1)), Ok(()));
            assert_eq!(meter.state(&watch()).remaining(), left);
        }
        assert_eq!(meter.state(&watch()).reset_seconds(), 60);
        assert_eq!(meter.take(&watch(), n(1)), Err(OverLimit::For(Duration::from_secs(1))));
        clock.advance(Duration::from_millis(400));
        assert_eq!(meter.take(&watch(), n(1)), Err(OverLimit::For(Duration::from_millis(600))));
        clock.advance(Duration::from_millis(600));
        assert_eq!(meter.take(&watch(), n(1)), Ok(()));
        assert!(meter.take(&watch(), n(1)).is_err());
        clock.advance(Duration::from_secs(3600));
        assert_eq!(meter.state(&watch()).remaining(), 60);
        assert_eq!(meter.state(&watch()).reset_seconds(), 0);
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let (meter, clock) = meter(100);
        assert_eq!(meter.take(&watch(), n(70)), Ok(()));
        for _ in 0..1_000 {
            // Ten of them are missing, at six tenths of a second each.
            assert_eq!(meter.take(&watch(), n(40)), Err(OverLimit::For(Duration::from_secs(6))));
        }
        assert_eq!(meter.state(&watch()).remaining(), 30);
        assert_eq!(meter.take(&watch(), n(30)), Ok(()));
        clock.advance(Duration::from_secs(60));
        assert_eq!(meter.take(&watch(), n(100)), Ok(()));
    }

    #[test]
    fn more_than_the_whole_limit_never_passes_and_harms_nobody() {
        let (meter, clock) = meter(100);
        assert_eq!(meter.take(&watch(), n(101)), Err(OverLimit::Forever));
        clock.advance(Duration::from_secs(600));
        assert_eq!(meter.take(&watch(), n(u32::MAX)), Err(OverLimit::Forever));
        assert_eq!(meter.take(&watch(), n(100)), Ok(()));
    }

    #[test]
    fn answers_are_slowed_from_eighty_percent_on_and_evenly() {
        let (meter, _) = meter(100);
        let slowed = |_| {
            assert_eq!(meter.take(&watch(), n(1)), Ok(()));
            meter.state(&watch()).slowed().as_millis() as u64
        };
        let slowed: Vec<u64> = (1..=100).map(slowed).collect();
        assert_eq!(slowed[..80], [0; 80]);
        assert_eq!(slowed[80..85], [50, 100, 150, 200, 250]);
        assert_eq!(slowed[99], SLOW_MS_MAX);
    }

    #[test]
    fn the_smallest_and_the_largest_limit_count_right() {
        let (one, clock) = meter(1);
        assert_eq!(one.take(&watch(), n(1)), Ok(()));
        assert_eq!(one.take(&watch(), n(1)), Err(OverLimit::For(Duration::from_secs(60))));
        assert_eq!(one.state(&watch()).slowed(), Duration::from_millis(SLOW_MS_MAX));
        clock.advance(Duration::from_secs(60));
        assert_eq!(one.take(&watch(), n(1)), Ok(()));

        let (most, clock) = meter(1_000_000_000);
        assert_eq!(most.take(&watch(), n(999_999_999)), Ok(()));
        assert_eq!(most.state(&watch()).remaining(), 1);
        clock.advance(Duration::from_secs(30));
        assert_eq!(most.state(&watch()).remaining(), 500_000_001);
    }

    #[test]
    fn the_tighter_of_two_limits_is_the_one_of_which_more_is_used() {
        let ((few, _), (many, _)) = (meter(10), meter(1_000));
        assert_eq!(few.take(&watch(), n(5)), Ok(()));
        assert_eq!(many.take(&watch(), n(400)), Ok(()));
        let told = || few.state(&watch()).tighter(many.state(&watch())).per_minute;
        assert_eq!(told(), 10);
        assert_eq!(many.take(&watch(), n(200)), Ok(()));
        assert_eq!(told(), 1_000);
    }

    #[test]
    fn subjects_and_tenants_do_not_share() {
        let (meter, _) = meter(1);
        for (tenant, subject) in [("a", "bc"), ("ab", "c"), ("a", "b"), ("a", "")] {
            assert_eq!(meter.take(&Subject::new(tenant, subject), n(1)), Ok(()));
            assert!(meter.take(&Subject::new(tenant, subject), n(1)).is_err());
        }
    }

    #[test]
    fn a_subject_is_forgotten_when_all_is_back_and_not_before() {
        let (meter, clock) = meter(60);
        assert_eq!(meter.take(&watch(), n(30)), Ok(()));
        clock.advance(Duration::from_secs(29));
        assert_eq!(meter.forget(), 1);
        assert_eq!(meter.state(&watch()).remaining(), 59);
        clock.advance(Duration::from_secs(3));
        assert_eq!(meter.forget(), 0);
        assert_eq!(meter.state(&watch()).remaining(), 60);
    }

    #[test]
    fn looking_remembers_nobody_and_too_many_are_let_through() {
        let (meter, clock) = meter(1);
        assert_eq!(meter.state(&watch()).remaining(), 1);
        assert_eq!(meter.forget(), 0);
        for i in 0..SUBJECTS_MAX {
            let mut subject = [0; 16];
            subject[..8].copy_from_slice(&i.to_le_bytes());
            assert_eq!(meter.take(&Subject(subject), n(1)), Ok(()));
        }
        for _ in 0..2 {
            assert_eq!(meter.take(&watch(), n(1)), Ok(()));
        }
        assert!(meter.take(&Subject([0; 16]), n(1)).is_err());
        clock.advance(Duration::from_secs(180));
        assert_eq!(meter.forget(), 0);
        assert_eq!(meter.take(&watch(), n(1)), Ok(()));
        assert!(meter.take(&watch(), n(1)).is_err());
    }
}
