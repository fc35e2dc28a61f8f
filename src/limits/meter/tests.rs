//! One process's count, and what several let through together.

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
    // What was given back is told, too.
    for process in [0, 1, 2, 0] {
        all.tell(process, 0);
    }
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
