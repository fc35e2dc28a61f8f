//! One step of a rule, tried on readings by hand.

use chrono::{DateTime, TimeDelta};
use uuid::Uuid;

use super::facts::Facts;
use super::input::{Context, Input, Judged, Reading};
use super::model::{Leaf, Rule};
use super::registry::shipped_rules;
use super::state::RuleState;
use super::step::step;
use super::timers::due;
use crate::event::AlertEventKind;
use crate::vital::Vital;

/// (seconds measured, seconds recorded, value, suspect)
type Row = (i64, i64, f64, bool);

fn live(rows: &[(i64, f64)]) -> Vec<Row> {
    rows.iter().map(|&(t, v)| (t, t, v, false)).collect()
}

fn context(facts: &Facts) -> Context<'_> {
    Context {
        tenant: "t",
        patient_id: "p",
        installation: Uuid::nil(),
        facts,
        inhibited: false,
        device_distrusted: false,
        silence: None,
    }
}

#[track_caller]
fn check(rule: &Rule, rows: &[Row], expect: &[(usize, AlertEventKind)]) {
    let (mut state, facts) = (RuleState::default(), Facts::default());
    let at = |s| DateTime::UNIX_EPOCH + TimeDelta::seconds(s);
    let mut got = Vec::new();
    for (i, &(occurred, recorded, value, suspect)) in rows.iter().enumerate() {
        let reading = Reading {
            device_id: "d",
            position: i as i64 + 1,
            vital: Vital::HeartRate,
            value,
            quality: None,
            suspect,
            occurred_at: at(occurred),
            recorded_at: at(recorded),
            judged: Judged::default(),
        };
        // Saved and loaded at every step, as between batches.
        let text = serde_json::to_string(&state).unwrap();
        state = serde_json::from_str(&text).unwrap();
        let mut said = Vec::new();
        step(rule, &mut state, &Input::Reading(reading), &context(&facts), &mut said);
        got.extend(said.into_iter().map(|t| (i, t.data.state)));
    }
    assert_eq!(got, expect);
}

#[test]
fn the_first_above_raises_and_the_first_at_or_below_clears() {
    use AlertEventKind::{Cleared, Raised};
    let rule = &shipped_rules().unwrap()[0];
    let rows = [(1, 120.0), (2, 121.0), (3, 140.0), (4, 120.0), (5, 90.0), (6, 130.0)];
    check(rule, &live(&rows), &[(1, Raised), (3, Cleared), (5, Raised)]);
}

#[test]
fn hysteresis_keeps_the_alert_until_the_clearing_number() {
    use AlertEventKind::{Cleared, Raised};
    let mut rule = shipped_rules().unwrap().remove(0);
    let [Leaf::Threshold { clear, .. }] = &mut *rule.when.leaves else { panic!("no threshold") };
    *clear = 110.0;
    let rows = [(1, 121.0), (2, 115.0), (3, 121.0), (4, 110.0), (5, 115.0)];
    check(&rule, &live(&rows), &[(0, Raised), (3, Cleared)]);
}

#[test]
fn suspect_readings_neither_raise_nor_clear() {
    let rule = &shipped_rules().unwrap()[0];
    let rows = [(1, 1, 350.0, true), (2, 2, 130.0, false), (3, 3, 0.0, true)];
    check(rule, &rows, &[(1, AlertEventKind::Raised)]);
}

#[test]
fn late_readings_are_missed_once_an_episode_and_never_page() {
    use AlertEventKind::Missed;
    let rule = &shipped_rules().unwrap()[0];
    let late = |t, v| (t, 1_000, v, false);
    let rows = [late(1, 130.0), late(2, 140.0), late(3, 100.0), late(4, 130.0)];
    check(rule, &rows, &[(0, Missed), (3, Missed)]);
    // Exactly as late as allowed is not late.
    check(rule, &[(0, 120, 130.0, false)], &[(0, AlertEventKind::Raised)]);
    check(rule, &[(0, 121, 130.0, false)], &[(0, Missed)]);
}

#[test]
fn a_reading_in_time_ends_an_episode_of_late_ones() {
    use AlertEventKind::Missed;
    let rule = &shipped_rules().unwrap()[0];
    let rows =
        [(0, 1_000, 130.0, false), (1_001, 1_001, 80.0, false), (1_002, 2_000, 130.0, false)];
    check(rule, &rows, &[(0, Missed), (2, Missed)]);
}

#[test]
fn an_older_file_after_a_newer_one_has_episodes_of_its_own() {
    use AlertEventKind::Missed;
    let rule = &shipped_rules().unwrap()[0];
    let late = |t, v| (t, 100_000, v, false);
    let rows = [late(5_000, 130.0), late(10, 130.0), late(11, 140.0), late(12, 80.0)];
    check(rule, &rows, &[(0, Missed), (1, Missed)]);
}

#[test]
fn a_clock_that_runs_ahead_does_not_keep_the_alert_standing() {
    use AlertEventKind::{Cleared, Raised};
    let rule = &shipped_rules().unwrap()[0];
    let rows = [(200, 100, 130.0, false), (101, 101, 80.0, false)];
    check(rule, &rows, &[(0, Raised), (1, Cleared)]);
}

#[test]
fn a_straggler_from_before_the_breach_does_not_clear() {
    use AlertEventKind::{Cleared, Raised};
    let rule = &shipped_rules().unwrap()[0];
    check(rule, &live(&[(10, 130.0), (5, 90.0), (10, 90.0)]), &[(0, Raised), (2, Cleared)]);
}

#[test]
fn a_late_reading_under_a_standing_alert_was_paged_for_already() {
    let rule = &shipped_rules().unwrap()[0];
    let rows = [(10, 10, 130.0, false), (20, 1_000, 140.0, false), (5, 1_000, 140.0, false)];
    check(rule, &rows, &[(0, AlertEventKind::Raised), (2, AlertEventKind::Missed)]);
}

fn rule(change: &str) -> Rule {
    let text =
        format!("id = \"r\"\nevent = \"R\"\npriority = \"high\"\nmode = \"active\"\n{change}\n");
    Rule::parse(&text, 1).unwrap()
}

fn technical(change: &str) -> Rule {
    let text = format!(
        "id = \"r\"\nevent = \"R\"\npriority = \"technical\"\nmode = \"active\"\n{change}\n"
    );
    Rule::parse(&text, 1).unwrap()
}

const ABOVE_120: &str = "when = { vital = \"heart_rate\", op = \">\", value = 120 }\n";

#[test]
fn a_delay_is_on_the_readings_own_time_and_a_gap_begins_it_anew() {
    use AlertEventKind::Raised;
    let rule = rule(&format!("{ABOVE_120}on_delay = \"10s\"\nmin_samples = 3\nmax_gap = \"6s\""));
    check(&rule, &live(&[(0, 130.0), (5, 130.0), (9, 130.0)]), &[]);
    check(&rule, &live(&[(0, 130.0), (5, 130.0), (10, 130.0)]), &[(2, Raised)]);
    // Two readings are too few, though they are far enough apart.
    check(&rule, &live(&[(0, 130.0), (5, 130.0)]), &[]);
    // A silence of seven seconds, then anew.
    let rows = [(0, 130.0), (5, 130.0), (12, 130.0), (17, 130.0), (21, 130.0), (22, 130.0)];
    check(&rule, &live(&rows), &[(5, Raised)]);
    // One reading that does not hold ends it.
    let rows = [(0, 130.0), (5, 110.0), (10, 130.0), (15, 130.0), (20, 130.0)];
    check(&rule, &live(&rows), &[(4, Raised)]);
}

#[test]
fn it_is_over_only_after_it_was_over_for_a_while() {
    use AlertEventKind::{Cleared, Raised};
    let rule = rule(&format!("{ABOVE_120}clear = {{ value = 110, off_delay = \"10s\" }}"));
    let rows =
        [(0, 130.0), (1, 115.0), (2, 105.0), (8, 115.0), (9, 105.0), (18, 105.0), (19, 100.0)];
    check(&rule, &live(&rows), &[(0, Raised), (6, Cleared)]);
}

#[test]
fn deltas_and_counts_hold_as_they_say() {
    use AlertEventKind::{Cleared, Raised};
    let fall = rule(
        "when = { delta = { vital = \"heart_rate\", op = \"<=\", value = -30, within = \"10m\" } }",
    );
    let rows = [(0, 100.0), (60, 95.0), (300, 71.0), (590, 70.0), (660, 70.0), (1300, 70.0)];
    check(&fall, &live(&rows), &[(3, Raised), (4, Cleared)]);
    let three_of_five = rule(
        "when = { count = { vital = \"heart_rate\", op = \">\", value = 120, n = 3, of = 5 } }",
    );
    let rows = [(0, 130.0), (1, 90.0), (2, 130.0), (3, 90.0), (4, 130.0), (5, 90.0), (6, 90.0)];
    check(&three_of_five, &live(&rows), &[(4, Raised), (5, Cleared)]);
    let within = rule(
        "when = { count = { vital = \"heart_rate\", op = \">\", value = 120, n = 2, within = \"10s\" } }",
    );
    check(&within, &live(&[(0, 130.0), (11, 130.0), (21, 130.0)]), &[(2, Raised)]);
}

/// Runs readings and ticks in the log's order; answers what was said, with its time.
fn run(rule: &Rule, rows: &[(i64, &str, f64, bool)], upto: i64) -> Vec<(i64, AlertEventKind)> {
    let (mut state, facts, mut said) = (RuleState::default(), Facts::default(), Vec::new());
    let at = |s| DateTime::UNIX_EPOCH + TimeDelta::seconds(s);
    let ticks = |state: &mut RuleState, upto: i64, said: &mut Vec<_>| {
        while let Some(time) = due(rule, state).filter(|time| *time <= at(upto)) {
            step(rule, state, &Input::Tick(time), &context(&facts), said);
        }
    };
    for (i, &(t, device_id, value, suspect)) in rows.iter().enumerate() {
        ticks(&mut state, t, &mut said);
        let reading = Reading {
            device_id,
            position: i as i64 + 1,
            vital: Vital::HeartRate,
            value,
            quality: None,
            suspect,
            occurred_at: at(t),
            recorded_at: at(t),
            judged: Judged::default(),
        };
        step(rule, &mut state, &Input::Reading(reading), &context(&facts), &mut said);
    }
    ticks(&mut state, upto, &mut said);
    said.iter().map(|t| (t.at.timestamp(), t.data.state)).collect()
}

#[test]
fn a_device_that_falls_silent_raises_by_time_alone_and_its_next_reading_clears() {
    use AlertEventKind::{Cleared, Raised};
    let rule = technical("when = { missing = { for = \"60s\" } }");
    let rows = [(0, "a", 80.0, false), (10, "b", 80.0, false), (65, "b", 80.0, false)];
    assert_eq!(run(&rule, &rows, 66), [(60, Raised)]);
    let rows = [rows[0], rows[1], (70, "a", 80.0, false), (71, "b", 0.0, true)];
    assert_eq!(run(&rule, &rows, 130), [(60, Raised), (71, Cleared), (130, Raised)]);
}

#[test]
fn nobody_answers_and_it_is_said_again_and_to_others() {
    use AlertEventKind::{Escalated, Raised, ReAlarmed};
    let rule = rule(&format!(
        "{ABOVE_120}re_alarm = \"100s\"\nescalate = [{{ after = \"150s\", unless = \"acked\", event = \"E\" }}]"
    ));
    let said = run(&rule, &[(0, "a", 130.0, false)], 250);
    assert_eq!(said, [(0, Raised), (100, ReAlarmed), (150, Escalated), (200, ReAlarmed)]);
}

#[test]
fn what_no_living_patient_shows_tells_of_the_device() {
    use AlertEventKind::{Cleared, Raised};
    let rule =
        technical("when = { suspect = {} }\nmin_samples = 2\nclear = { off_delay = \"30s\" }");
    let rows = [
        (0, "a", 0.0, true),
        (5, "b", 80.0, false),
        (60, "a", 0.0, true),
        (70, "a", 80.0, false),
        (99, "a", 80.0, false),
        (100, "a", 80.0, false),
    ];
    assert_eq!(run(&rule, &rows, 200), [(60, Raised), (100, Cleared)]);
}

/// What a reading in a patient's stream raises.
fn raised(context: &Context<'_>, reading: Reading<'_>) -> Uuid {
    let rule = shipped_rules().unwrap().remove(0);
    let (mut state, mut said) = (RuleState::default(), Vec::new());
    step(&rule, &mut state, &Input::Reading(reading), context, &mut said);
    said[0].data.alert_id
}

#[test]
fn an_alerts_id_is_made_of_what_happened_and_of_no_position() {
    let facts = Facts::default();
    let here = context(&facts);
    let at = DateTime::UNIX_EPOCH;
    let reading = Reading {
        device_id: "d",
        position: 7,
        vital: Vital::HeartRate,
        value: 130.0,
        quality: None,
        suspect: false,
        occurred_at: at,
        recorded_at: at,
        judged: Judged::default(),
    };
    let id = raised(&here, reading.clone());
    // The same reading, sent again after a restore: another place, later, and the same alert.
    let later = at + TimeDelta::seconds(60);
    let again = Reading { position: 9_000, recorded_at: later, ..reading.clone() };
    assert_eq!(raised(&here, again), id);
    // Another reading at the same place is another alert, and so is another patient's.
    let others = [
        Reading { device_id: "e", ..reading.clone() },
        Reading { occurred_at: at + TimeDelta::microseconds(1), ..reading.clone() },
    ];
    for other in others {
        assert_ne!(raised(&here, other.clone()), id, "{other:?}");
    }
    let elsewhere = [
        Context { installation: Uuid::from_u128(1), ..here },
        Context { tenant: "u", ..here },
        Context { patient_id: "q", ..here },
    ];
    for there in elsewhere {
        assert_ne!(raised(&there, reading.clone()), id, "{there:?}");
    }
}

#[test]
fn only_the_device_that_raised_it_clears_it_unless_it_is_not_heard_of() {
    use AlertEventKind::{Cleared, Raised};
    let rule = &shipped_rules().unwrap()[0];
    let mut rows = vec![(0, "a", 130.0, false), (1, "b", 70.0, false), (2, "b", 71.0, false)];
    assert_eq!(run(rule, &rows, 10), [(0, Raised)]);
    rows.push((3, "a", 80.0, false));
    assert_eq!(run(rule, &rows, 10), [(0, Raised), (3, Cleared)]);
    // Five minutes to the second is not silent yet.
    let silent =
        |second| [(0, "a", 130.0, false), (100, "a", 131.0, false), (second, "b", 70.0, false)];
    assert_eq!(run(rule, &silent(400), 500), [(0, Raised)]);
    assert_eq!(run(rule, &silent(401), 500), [(0, Raised), (401, Cleared)]);
}

#[test]
fn what_devices_say_does_not_mix_in_delays_and_counts() {
    use AlertEventKind::Raised;
    let delayed = rule(&format!("{ABOVE_120}on_delay = \"10s\""));
    let rows = [(0, "a", 130.0, false), (5, "b", 70.0, false), (10, "a", 130.0, false)];
    assert_eq!(run(&delayed, &rows, 20), [(10, Raised)]);
    let count =
        "when = { count = { vital = \"heart_rate\", op = \">\", value = 120, n = 2, of = 2 } }";
    assert_eq!(run(&rule(count), &rows, 20), [(10, Raised)]);
    assert_eq!(run(&rule(&format!("{count}\nper = \"patient\"")), &rows, 20), []);
}
