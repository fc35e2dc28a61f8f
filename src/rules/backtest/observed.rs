//! A patient's observed time.
//!
//! Guarantees that a silence of more than [`OBSERVED_GAP_MICROS`] counts nowhere: neither as
//! time in which the patient was observed nor as time in alarm. So no part of it is ever
//! more than the whole. Readings come in the order of time.

/// A longer silence does not count as time in which the patient was observed.
const OBSERVED_GAP_MICROS: i64 = 2 * 3_600_000_000;

/// How much of a patient's time was observed, up to any moment of the slice at hand.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// When the first and the newest reading were measured.
    span: Option<(i64, i64)>,
    /// What was not observed before the newest one.
    unobserved: i64,
    /// The same before the slice at hand.
    before: i64,
    /// The silences of the slice at hand.
    holes: Vec<Hole>,
}

#[derive(Clone, Copy, Debug)]
struct Hole {
    from: i64,
    to: i64,
    /// What was not observed before it.
    before: i64,
}

impl Observed {
    /// A slice begins: what lies before it is not asked for any more.
    pub fn begin_slice(&mut self) {
        self.holes.clear();
        self.before = self.unobserved;
    }

    /// A reading was measured at `at`, not before the one before.
    pub fn reading(&mut self, at: i64) {
        let Some((_, newest)) = &mut self.span else {
            self.span = Some((at, at));
            return;
        };
        let gap = at - *newest;
        if gap > OBSERVED_GAP_MICROS {
            self.holes.push(Hole { from: *newest, to: at, before: self.unobserved });
            self.unobserved += gap;
        }
        *newest = at;
    }

    /// The newest reading's time.
    pub fn newest(&self) -> Option<i64> {
        self.span.map(|(_, newest)| newest)
    }

    /// All that was observed.
    pub fn total(&self) -> i64 {
        self.span.map_or(0, |(first, newest)| newest - first - self.unobserved)
    }

    /// How much had been observed at a moment of the slice at hand.
    pub fn by(&self, at: i64) -> i64 {
        let Some((first, newest)) = self.span else { return 0 };
        let at = at.clamp(first, newest);
        let hole = self.holes.partition_point(|hole| hole.from <= at).checked_sub(1);
        let unobserved = match hole.and_then(|n| self.holes.get(n)) {
            Some(hole) => hole.before + at.min(hole.to) - hole.from,
            None => self.before,
        };
        (at - first - unobserved).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    #[test]
    fn a_silence_counts_nowhere_and_time_stands_still_in_it() {
        let mut observed = Observed::default();
        assert_eq!((observed.total(), observed.by(7)), (0, 0));
        for hour in [10, 11, 13, 20, 21] {
            observed.reading(hour * HOUR);
        }
        assert_eq!(observed.total(), 4 * HOUR);
        for (at, by) in [(9, 0), (10, 0), (12, 2), (13, 3), (15, 3), (20, 3), (21, 4), (30, 4)] {
            assert_eq!(observed.by(at * HOUR), by * HOUR, "at {at}");
        }
        // Of another slice: what was before is kept as a sum.
        observed.begin_slice();
        observed.reading(22 * HOUR);
        observed.reading(30 * HOUR);
        assert_eq!((observed.total(), observed.by(22 * HOUR)), (5 * HOUR, 5 * HOUR));
        assert_eq!((observed.by(25 * HOUR), observed.newest()), (5 * HOUR, Some(30 * HOUR)));
    }
}
