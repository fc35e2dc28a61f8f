//! One limit: how many of something each subject may have in a minute.
//!
//! Guarantees that what is refused costs nothing, that a subject's use flows back evenly
//! (GCRA), so that after a silence a whole minute's worth may come at once, and that memory
//! is bounded. Subjects beyond [`SUBJECTS_MAX`] are not counted: a reading is worth more than
//! the count of it.
//!
//! What was taken here and not told to the other processes yet is the process's own use. As
//! long as the others know of none, each process lets its share of the rate flow back; from
//! when one of them has told, all count into what is shared, and that flows back once. So
//! the processes together let through what the limit says and their credit, which is
//! [`CREDIT_PERCENT`] of it for all of them. Does not tell anybody: that is `shared.rs`'s.
//! The time is an argument: nanoseconds since any moment, the same for all calls.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use parking_lot::Mutex;

use crate::auth::Subject;

/// Subjects that one limit counts at once. One takes some 60 bytes, and looking
/// through all of them takes milliseconds.
pub const SUBJECTS_MAX: usize = 200_000;
/// The part of a limit, in percent, from which on answers are slowed down.
const SLOW_FROM_PERCENT: u64 = 80;
/// How much an answer is slowed down at the limit. It grows evenly up to there.
pub const SLOW_MS_MAX: u64 = 1_000;
/// The part of a limit, in percent, that all processes together may let through before they
/// tell each other. Half of its share a process takes before it tells.
pub const CREDIT_PERCENT: u64 = 10;

/// A minute: what a whole limit takes to flow back.
const MINUTE_NS: u64 = 60_000_000_000;

/// Why something was not taken; nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// There is room for it after this long, if it is not taken before.
    For(Duration),
    /// It is more than the whole limit.
    Forever,
}

/// What has to be done about what was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing: it is within the process's credit.
    Quietly,
    /// The other processes are told soon.
    ToTell,
    /// The other processes are told first, and then [`Meter::keep`] says whether it holds.
    OnCredit,
}

/// A limit, and who has used how much of it.
pub struct Meter {
    per_minute: NonZeroU32,
    /// How long one takes to flow back.
    each_ns: u64,
    known: Mutex<Known>,
}

struct Known {
    uses: HashMap<Subject, Use>,
    /// Processes that count, this one too.
    processes: u64,
}

/// How much one subject has used.
#[derive(Clone, Copy, Default)]
struct Use {
    /// When what all processes have told of will have flowed back.
    shared_until: u64,
    /// What was taken here beside it, as the time that it takes to flow back; less than
    /// nothing where what was given back had been told already.
    own_ns: i64,
    /// Until when `own_ns` has flowed back.
    at: u64,
}

impl Use {
    /// The same at a later time.
    fn flow(&mut self, now: u64, processes: u64) {
        let from = self.at.max(self.shared_until);
        let flown = i64::try_from(now.saturating_sub(from) / processes).unwrap_or(i64::MAX);
        self.own_ns -= flown.min(self.own_ns.max(0));
        self.at = self.at.max(now);
    }

    fn is_shared(&self, now: u64) -> bool {
        self.shared_until > now
    }

    fn used_ns(&self, now: u64) -> u64 {
        self.shared_until.saturating_sub(now).saturating_add_signed(self.own_ns)
    }
}

impl Meter {
    /// A limit of which nothing is used yet, at the only process.
    pub fn new(per_minute: NonZeroU32) -> Meter {
        let each_ns = (MINUTE_NS / u64::from(per_minute.get())).max(1);
        let known = Mutex::new(Known { uses: HashMap::new(), processes: 1 });
        Meter { per_minute, each_ns, known }
    }

    /// The limit.
    pub fn per_minute(&self) -> NonZeroU32 {
        self.per_minute
    }

    fn whole_ns(&self) -> u64 {
        self.each_ns * u64::from(self.per_minute.get())
    }

    /// Takes `n`, or nothing.
    pub fn take(&self, subject: &Subject, n: NonZeroU32, now: u64) -> Result<Taken, OverLimit> {
        if n > self.per_minute {
            return Err(OverLimit::Forever);
        }
        let (cost, whole) = (self.each_ns * u64::from(n.get()), self.whole_ns());
        let mut known = self.known.lock();
        let Known { uses, processes } = &mut *known;
        let mut of = uses.get(subject).copied().unwrap_or(Use { at: now, ..Use::default() });
        of.flow(now, *processes);
        let after = of.used_ns(now).saturating_add(cost);
        if after > whole {
            return Err(OverLimit::For(Duration::from_nanos(after - whole)));
        }
        of.own_ns = of.own_ns.saturating_add_unsigned(cost);
        if uses.len() < SUBJECTS_MAX || uses.contains_key(subject) {
            uses.insert(*subject, of);
        }
        let credit = credit_ns(whole, *processes);
        Ok(match of.own_ns.unsigned_abs() {
            _ if *processes == 1 || of.own_ns <= 0 => Taken::Quietly,
            own if own > credit => Taken::OnCredit,
            own if own > credit / 2 => Taken::ToTell,
            _ => Taken::Quietly,
        })
    }

    /// Whether what was taken on credit holds, now that the others know of it. Otherwise it
    /// is given back, and there is room after so long.
    pub fn keep(&self, subject: &Subject, n: NonZeroU32, now: u64) -> Result<(), OverLimit> {
        let cost = self.each_ns.saturating_mul(u64::from(n.get()));
        let mut known = self.known.lock();
        let Some(of) = known.uses.get_mut(subject) else { return Ok(()) };
        let (used, whole) = (of.used_ns(now), self.whole_ns());
        if used <= whole {
            return Ok(());
        }
        of.own_ns = of.own_ns.saturating_sub_unsigned(cost);
        Err(OverLimit::For(Duration::from_nanos(used - whole)))
    }

    /// What the other processes have to be told: of whom they count already, and of who is
    /// at half the credit. So many subjects at most.
    pub fn to_tell(&self, now: u64, most: usize) -> Vec<(Subject, i64)> {
        let mut known = self.known.lock();
        let Known { uses, processes } = &mut *known;
        if *processes == 1 {
            return Vec::new();
        }
        let half = i64::try_from(credit_ns(self.whole_ns(), *processes) / 2).unwrap_or(i64::MAX);
        let told = uses.iter_mut().filter_map(|(subject, of)| {
            of.flow(now, *processes);
            let is_due = if of.is_shared(now) { of.own_ns != 0 } else { of.own_ns > half };
            is_due.then_some((*subject, of.own_ns))
        });
        told.take(most).collect()
    }

    /// The others were told so much of a subject.
    pub fn told(&self, subject: &Subject, own_ns: i64) {
        if let Some(of) = self.known.lock().uses.get_mut(subject) {
            of.own_ns = of.own_ns.saturating_sub(own_ns);
        }
    }

    /// What all processes have told of a subject flows back until then.
    pub fn shared(&self, subject: &Subject, until: u64, now: u64) {
        let mut known = self.known.lock();
        let Known { uses, processes } = &mut *known;
        if uses.len() < SUBJECTS_MAX || uses.contains_key(subject) {
            let of = uses.entry(*subject).or_insert(Use { at: now, ..Use::default() });
            of.flow(now, *processes);
            of.shared_until = until;
        }
    }

    /// From now on so many processes count, this one too.
    pub fn counted_by(&self, processes: u64, now: u64) {
        let mut known = self.known.lock();
        let before = std::mem::replace(&mut known.processes, processes.max(1));
        if before != known.processes {
            known.uses.values_mut().for_each(|of| of.flow(now, before));
        }
    }

    /// Where a subject stands.
    pub fn state(&self, subject: &Subject, now: u64) -> LimitState {
        let known = self.known.lock();
        let mut of = known.uses.get(subject).copied().unwrap_or_default();
        of.flow(now, known.processes);
        let (per_minute, each_ns, whole_ns) =
            (self.per_minute.get(), self.each_ns, self.whole_ns());
        LimitState { per_minute, each_ns, whole_ns, used_ns: of.used_ns(now).min(whole_ns) }
    }

    /// Forgets subjects whose use has flowed back; how many are left.
    pub fn forget(&self, now: u64) -> usize {
        let mut known = self.known.lock();
        let processes = known.processes;
        known.uses.retain(|_, of| {
            of.flow(now, processes);
            of.is_shared(now) || of.own_ns > 0
        });
        known.uses.len()
    }
}

/// What one of so many processes may let through before it tells.
fn credit_ns(whole_ns: u64, processes: u64) -> u64 {
    whole_ns * CREDIT_PERCENT / 100 / processes
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn n(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).expect("more than none")
    }

    fn meter(per_minute: u32) -> Meter {
        Meter::new(n(per_minute))
    }

    fn watch() -> Subject {
        Subject::new("hospital-1", "watch-7")
    }

    fn left(meter: &Meter, now: u64) -> u64 {
        meter.state(&watch(), now).remaining()
    }

    #[test]
    fn a_limit_is_had_at_once_and_flows_back_evenly() {
        let (meter, now) = (meter(60), SECOND);
        for remaining in (0..60).rev() {
            assert_eq!(meter.take(&watch(), n(1), now), Ok(Taken::Quietly));
            assert_eq!(left(&meter, now), remaining);
        }
        assert_eq!(meter.state(&watch(), now).reset_seconds(), 60);
        let over = |ms| Err(OverLimit::For(Duration::from_millis(ms)));
        assert_eq!(meter.take(&watch(), n(1), now), over(1_000));
        assert_eq!(meter.take(&watch(), n(1), now + SECOND * 2 / 5), over(600));
        assert_eq!(meter.take(&watch(), n(1), now + SECOND), Ok(Taken::Quietly));
        assert!(meter.take(&watch(), n(1), now + SECOND).is_err());
        assert_eq!(left(&meter, now + 3_600 * SECOND), 60);
        assert_eq!(meter.state(&watch(), now + 3_600 * SECOND).reset_seconds(), 0);
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let meter = meter(100);
        assert_eq!(meter.take(&watch(), n(70), 0), Ok(Taken::Quietly));
        for _ in 0..1_000 {
            // Ten of them are missing, at six tenths of a second each.
            let over = Err(OverLimit::For(Duration::from_secs(6)));
            assert_eq!(meter.take(&watch(), n(40), 0), over);
        }
        assert_eq!(left(&meter, 0), 30);
        assert_eq!(meter.take(&watch(), n(30), 0), Ok(Taken::Quietly));
        assert_eq!(meter.take(&watch(), n(100), 60 * SECOND), Ok(Taken::Quietly));
    }

    #[test]
    fn more_than_the_whole_limit_never_passes_and_harms_nobody() {
        let meter = meter(100);
        assert_eq!(meter.take(&watch(), n(101), 0), Err(OverLimit::Forever));
        assert_eq!(meter.take(&watch(), n(u32::MAX), 600 * SECOND), Err(OverLimit::Forever));
        assert_eq!(meter.take(&watch(), n(100), 600 * SECOND), Ok(Taken::Quietly));
    }

    #[test]
    fn answers_are_slowed_from_eighty_percent_on_and_evenly() {
        let meter = meter(100);
        let slowed = |_| {
            assert_eq!(meter.take(&watch(), n(1), 0), Ok(Taken::Quietly));
            meter.state(&watch(), 0).slowed().as_millis() as u64
        };
        let slowed: Vec<u64> = (1..=100).map(slowed).collect();
        assert_eq!(slowed[..80], [0; 80]);
        assert_eq!(slowed[80..85], [50, 100, 150, 200, 250]);
        assert_eq!(slowed[99], SLOW_MS_MAX);
    }

    #[test]
    fn the_smallest_and_the_largest_limit_count_right() {
        let one = meter(1);
        assert_eq!(one.take(&watch(), n(1), 0), Ok(Taken::Quietly));
        let over = Err(OverLimit::For(Duration::from_secs(60)));
        assert_eq!(one.take(&watch(), n(1), 0), over);
        assert_eq!(one.state(&watch(), 0).slowed(), Duration::from_millis(SLOW_MS_MAX));
        assert_eq!(one.take(&watch(), n(1), 60 * SECOND), Ok(Taken::Quietly));

        let most = meter(1_000_000_000);
        assert_eq!(most.take(&watch(), n(999_999_999), 0), Ok(Taken::Quietly));
        assert_eq!(left(&most, 0), 1);
        assert_eq!(left(&most, 30 * SECOND), 500_000_001);
        let all = meter(u32::MAX);
        assert_eq!(all.take(&watch(), n(u32::MAX), 0), Ok(Taken::Quietly));
    }

    #[test]
    fn the_tighter_of_two_limits_is_the_one_of_which_more_is_used() {
        let (few, many) = (meter(10), meter(1_000));
        assert_eq!(few.take(&watch(), n(5), 0), Ok(Taken::Quietly));
        assert_eq!(many.take(&watch(), n(400), 0), Ok(Taken::Quietly));
        let told = || few.state(&watch(), 0).tighter(many.state(&watch(), 0)).per_minute;
        assert_eq!(told(), 10);
        assert_eq!(many.take(&watch(), n(200), 0), Ok(Taken::Quietly));
        assert_eq!(told(), 1_000);
    }

    #[test]
    fn subjects_and_tenants_do_not_share() {
        let meter = meter(1);
        for (tenant, subject) in [("a", "bc"), ("ab", "c"), ("a", "b"), ("a", "")] {
            assert_eq!(meter.take(&Subject::new(tenant, subject), n(1), 0), Ok(Taken::Quietly));
            assert!(meter.take(&Subject::new(tenant, subject), n(1), 0).is_err());
        }
    }

    #[test]
    fn a_subject_is_forgotten_when_all_is_back_and_not_before() {
        let meter = meter(60);
        assert_eq!(meter.take(&watch(), n(30), 0), Ok(Taken::Quietly));
        assert_eq!(meter.forget(29 * SECOND), 1);
        assert_eq!(left(&meter, 29 * SECOND), 59);
        assert_eq!(meter.forget(32 * SECOND), 0);
        assert_eq!(left(&meter, 32 * SECOND), 60);
    }

    #[test]
    fn looking_remembers_nobody_and_too_many_are_let_through() {
        let meter = meter(1);
        assert_eq!(left(&meter, 0), 1);
        assert_eq!(meter.forget(0), 0);
        for i in 0..SUBJECTS_MAX {
            let mut subject = [0; 16];
            subject[..8].copy_from_slice(&i.to_le_bytes());
            assert_eq!(meter.take(&Subject(subject), n(1), 0), Ok(Taken::Quietly));
        }
        for _ in 0..2 {
            assert_eq!(meter.take(&watch(), n(1), 0), Ok(Taken::Quietly));
        }
        assert!(meter.take(&Subject([0; 16]), n(1), 0).is_err());
        assert_eq!(meter.forget(180 * SECOND), 0);
        assert_eq!(meter.take(&watch(), n(1), 180 * SECOND), Ok(Taken::Quietly));
        assert!(meter.take(&watch(), n(1), 180 * SECOND).is_err());
    }

    /// Processes that tell each other by a number instead of a table.
    struct Installation {
        meters: Vec<Meter>,
        until: u64,
    }

    impl Installation {
        fn new(processes: u32, per_minute: u32) -> Installation {
            let meters: Vec<Meter> = (0..processes).map(|_| meter(per_minute)).collect();
            meters.iter().for_each(|meter| meter.counted_by(u64::from(processes), 0));
            Installation { meters, until: 0 }
        }

        fn tell(&mut self, teller: usize, now: u64) {
            for (subject, own) in self.meters[teller].to_tell(now, 10) {
                self.until = self.until.max(now).saturating_add_signed(own).max(now);
                self.meters[teller].told(&subject, own);
            }
            self.meters[teller].shared(&watch(), self.until, now);
        }

        /// One of `n` at a process; whether it was let through.
        fn ask(&mut self, at: usize, count: u32, now: u64) -> bool {
            match self.meters[at].take(&watch(), n(count), now) {
                Ok(Taken::OnCredit) => {
                    self.tell(at, now);
                    self.meters[at].keep(&watch(), n(count), now).is_ok()
                }
                Ok(Taken::ToTell) => {
                    self.tell(at, now);
                    true
                }
                Ok(Taken::Quietly) => true,
                Err(_) => false,
            }
        }
    }

    #[test]
    fn several_processes_together_let_through_what_the_limit_says_and_a_tenth() {
        for processes in [1, 2, 3, 10] {
            let mut all = Installation::new(processes, 6_000);
            let mut passed = 0;
            // At once, from everywhere.
            for i in 0..10_000 {
                passed += u32::from(all.ask(i % processes as usize, 1, 0));
            }
            assert!((6_000..=6_600).contains(&passed), "{processes}: {passed} at once");
            // Then for ten minutes as fast as it goes, each process telling every second.
            passed = 0;
            for ms in 0..600_000_u64 {
                let now = ms * 1_000_000;
                for process in 0..processes as usize {
                    passed += u32::from(all.ask(process, 1, now));
                    if ms % 1_000 == 0 {
                        all.tell(process, now);
                    }
                }
            }
            assert!((59_000..=61_000).contains(&passed), "{processes}: {passed} in ten minutes");
        }
    }

    #[test]
    fn who_stays_below_the_limit_at_each_process_alone_does_not_pass_it_together() {
        let mut all = Installation::new(3, 6_000);
        let mut passed = 0;
        // At each process nine tenths of the limit, for ten minutes: 2.7 of it.
        for step in 0..600 * 90_u64 {
            let now = step * SECOND / 90;
            for process in 0..3 {
                passed += u32::from(all.ask(process, 1, now));
                if step % 90 == 0 {
                    all.tell(process, now);
                }
            }
        }
        // A burst of a minute, and ten minutes.
        assert!((66_000..=67_000).contains(&passed), "{passed}");
    }

    #[test]
    fn batches_larger_than_the_credit_are_let_through_once() {
        let mut all = Installation::new(3, 1_000);
        let passed = (0..9).filter(|i| all.ask(i % 3, 400, 0)).count();
        assert_eq!(passed, 2);
        assert_eq!(all.meters[0].state(&watch(), 0).remaining(), 200);
    }

    #[test]
    fn who_asks_little_is_not_told_of() {
        let mut all = Installation::new(3, 1_000);
        for second in 0..600 {
            assert!(all.ask(0, 1, second * SECOND));
            all.tell(0, second * SECOND);
        }
        assert_eq!(all.until, 0);
    }
}
