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
mod tests;
