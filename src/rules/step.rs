//! One step of a rule: state and reading in, state and transition out.
//!
//! Guarantees that the same readings in the same order give the same transitions:
//! no clock, no randomness, no input but the arguments. A suspect reading never
//! changes anything; a late one never pages and never clears.
//!
//! Does not reorder: readings come in the order in which the log learned them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::model::Rule;
use crate::event::{AlertData, AlertState};
use crate::vital::Vital;

/// The namespace of alert ids.
const ALERT_NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_5c0a_3b52_4f6e_9a57_0c55_6cc2_1a77);

/// What a rule remembers of a patient. The default is worth no row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The alert that stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<Active>,
    /// A run of late readings that would have been an alert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<Missed>,
}

/// An alert that stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Active {
    /// Of the alert.
    pub id: Uuid,
    /// When the reading that raised it was measured.
    pub since: DateTime<Utc>,
    /// When the newest reading that broke the limit was measured. A straggler from
    /// before it does not clear.
    pub broken_at: DateTime<Utc>,
}

/// An episode among late readings that was recorded as missed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Missed {
    /// When its first reading was measured. An older one belongs to another episode.
    pub since: DateTime<Utc>,
    /// As in [`Active::broken_at`].
    pub broken_at: DateTime<Utc>,
}

/// A reading as rules see it.
#[derive(Clone, Debug)]
pub struct Reading<'a> {
    /// Owner.
    pub tenant: &'a str,
    /// Whom it is about.
    pub patient_id: &'a str,
    /// What measured it.
    pub device_id: &'a str,
    /// The patient's shard.
    pub shard: i16,
    /// Its position there.
    pub position: i64,
    /// What was measured.
    pub vital: Vital,
    /// In the canonical unit.
    pub value: f64,
    /// Implausible: ignored here.
    pub suspect: bool,
    /// When it was measured.
    pub occurred_at: DateTime<Utc>,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
}

/// Something to append to the log.
pub type Transition = AlertData;

/// Judges one reading.
pub fn step(rule: &Rule, state: &mut State, reading: &Reading<'_>) -> Option<Transition> {
    if reading.suspect || reading.vital != rule.vital {
        return None;
    }
    let lateness = (reading.recorded_at - reading.occurred_at).to_std().unwrap_or_default();
    if lateness > rule.lateness {
        return step_late(rule, state, reading);
    }
    let at = reading.occurred_at;
    // Whatever comes in time ends an episode among the late ones.
    state.missed.take_if(|missed| missed.broken_at <= at);
    match &mut state.active {
        None if rule.op.breaks(reading.value, rule.value) => {
            let id = alert_id(rule, reading);
            state.active = Some(Active { id, since: at, broken_at: at.min(reading.recorded_at) });
            Some(transition(rule, reading, AlertState::Raised, id, at))
        }
        None => None,
        Some(active) if rule.op.breaks(reading.value, rule.clear) => {
            // A clock that runs ahead must not keep the alert standing.
            active.broken_at = active.broken_at.max(at.min(reading.recorded_at));
            None
        }
        Some(active) if at < active.broken_at => None,
        Some(active) => {
            let (id, since) = (active.id, active.since);
            state.active = None;
            Some(transition(rule, reading, AlertState::Cleared, id, since))
        }
    }
}

/// A late reading: what it would have raised is said once an episode.
fn step_late(rule: &Rule, state: &mut State, reading: &Reading<'_>) -> Option<Transition> {
    let at = reading.occurred_at;
    // Somebody was paged for this already.
    if state.active.as_ref().is_some_and(|active| active.since <= at) {
        return None;
    }
    // Files and devices are not read in the order of time.
    let open = state.missed.as_mut().filter(|missed| missed.since <= at);
    match open {
        None if rule.op.breaks(reading.value, rule.value) => {
            state.missed = Some(Missed { since: at, broken_at: at });
            let id = alert_id(rule, reading);
            Some(transition(rule, reading, AlertState::Missed, id, at))
        }
        None => None,
        Some(missed) if rule.op.breaks(reading.value, rule.clear) => {
            missed.broken_at = missed.broken_at.max(at);
            None
        }
        Some(missed) => {
            if at >= missed.broken_at {
                state.missed = None;
            }
            None
        }
    }
}

/// The same readings give the same ids, also when they are replayed.
fn alert_id(rule: &Rule, reading: &Reading<'_>) -> Uuid {
    let name = format!(
        "{}/{}/{}/{}/{}/{}",
        rule.id, rule.version, reading.tenant, reading.patient_id, reading.shard, reading.position
    );
    Uuid::new_v5(&ALERT_NAMESPACE, name.as_bytes())
}

fn transition(
    rule: &Rule,
    reading: &Reading<'_>,
    state: AlertState,
    alert_id: Uuid,
    since: DateTime<Utc>,
) -> Transition {
    AlertData {
        v: 1,
        alert_id,
        state,
        rule: rule.id.clone(),
        rule_version: rule.version,
        event: rule.event.clone(),
        priority: rule.priority,
        vital: reading.vital,
        value: reading.value,
        unit: reading.vital.unit().to_owned(),
        measured_at: reading.occurred_at,
        device_id: reading.device_id.to_owned(),
        reading_position: reading.position,
        since,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::default_rules;
    use chrono::TimeDelta;

    /// (seconds measured, seconds recorded, value, suspect)
    type Row = (i64, i64, f64, bool);

    fn live(rows: &[(i64, f64)]) -> Vec<Row> {
        rows.iter().map(|&(t, v)| (t, t, v, false)).collect()
    }

    #[track_caller]
    fn check(rule: &Rule, rows: &[Row], expect: &[(usize, AlertState)]) {
        let mut state = State::default();
        let at = |s| DateTime::UNIX_EPOCH + TimeDelta::seconds(s);
        let mut got = Vec::new();
        for (i, &(occurred, recorded, value, suspect)) in rows.iter().enumerate() {
            let reading = Reading {
                tenant: "t",
                patient_id: "p",
                device_id: "d",
                shard: 0,
                position: i as i64 + 1,
                vital: Vital::HeartRate,
                value,
                suspect,
                occurred_at: at(occurred),
                recorded_at: at(recorded),
            };
            // Saved and loaded at every step, as between batches.
            let text = serde_json::to_string(&state).unwrap();
            state = serde_json::from_str(&text).unwrap();
            got.extend(step(rule, &mut state, &reading).map(|t| (i, t.state)));
        }
        assert_eq!(got, expect);
    }

    #[test]
    fn the_first_above_raises_and_the_first_at_or_below_clears() {
        use AlertState::{Cleared, Raised};
        let rule = &default_rules().unwrap()[0];
        let rows = [(1, 120.0), (2, 121.0), (3, 140.0), (4, 120.0), (5, 90.0), (6, 130.0)];
        check(rule, &live(&rows), &[(1, Raised), (3, Cleared), (5, Raised)]);
    }

    #[test]
    fn hysteresis_keeps_the_alert_until_the_clearing_number() {
        use AlertState::{Cleared, Raised};
        let mut rule = default_rules().unwrap().remove(0);
        rule.clear = 110.0;
        let rows = [(1, 121.0), (2, 115.0), (3, 121.0), (4, 110.0), (5, 115.0)];
        check(&rule, &live(&rows), &[(0, Raised), (3, Cleared)]);
    }

    #[test]
    fn suspect_readings_neither_raise_nor_clear() {
        let rule = &default_rules().unwrap()[0];
        let rows = [(1, 1, 350.0, true), (2, 2, 130.0, false), (3, 3, 0.0, true)];
        check(rule, &rows, &[(1, AlertState::Raised)]);
    }

    #[test]
    fn late_readings_are_missed_once_an_episode_and_never_page() {
        use AlertState::Missed;
        let rule = &default_rules().unwrap()[0];
        let late = |t, v| (t, 1_000, v, false);
        let rows = [late(1, 130.0), late(2, 140.0), late(3, 100.0), late(4, 130.0)];
        check(rule, &rows, &[(0, Missed), (3, Missed)]);
        // Exactly as late as allowed is not late.
        check(rule, &[(0, 120, 130.0, false)], &[(0, AlertState::Raised)]);
        check(rule, &[(0, 121, 130.0, false)], &[(0, Missed)]);
    }

    #[test]
    fn a_reading_in_time_ends_an_episode_of_late_ones() {
        use AlertState::Missed;
        let rule = &default_rules().unwrap()[0];
        let rows =
            [(0, 1_000, 130.0, false), (1_001, 1_001, 80.0, false), (1_002, 2_000, 130.0, false)];
        check(rule, &rows, &[(0, Missed), (2, Missed)]);
    }

    #[test]
    fn an_older_file_after_a_newer_one_has_episodes_of_its_own() {
        use AlertState::Missed;
        let rule = &default_rules().unwrap()[0];
        let late = |t, v| (t, 100_000, v, false);
        let rows = [late(5_000, 130.0), late(10, 130.0), late(11, 140.0), late(12, 80.0)];
        check(rule, &rows, &[(0, Missed), (1, Missed)]);
    }

    #[test]
    fn a_clock_that_runs_ahead_does_not_keep_the_alert_standing() {
        use AlertState::{Cleared, Raised};
        let rule = &default_rules().unwrap()[0];
        let rows = [(200, 100, 130.0, false), (101, 101, 80.0, false)];
        check(rule, &rows, &[(0, Raised), (1, Cleared)]);
    }

    #[test]
    fn a_straggler_from_before_the_breach_does_not_clear() {
        use AlertState::{Cleared, Raised};
        let rule = &default_rules().unwrap()[0];
        check(rule, &live(&[(10, 130.0), (5, 90.0), (10, 90.0)]), &[(0, Raised), (2, Cleared)]);
    }

    #[test]
    fn a_late_reading_under_a_standing_alert_was_paged_for_already() {
        let rule = &default_rules().unwrap()[0];
        let rows = [(10, 10, 130.0, false), (20, 1_000, 140.0, false), (5, 1_000, 140.0, false)];
        check(rule, &rows, &[(0, AlertState::Raised), (2, AlertState::Missed)]);
    }
}
