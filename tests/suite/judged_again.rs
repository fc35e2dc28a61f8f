//! Corrections and order: what the rules remember is what the log says without what was
//! entered in error, and the order in a batch decides nothing.
//!
//! No database: the evaluator is a fold over the log's events.

mod acts;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde_json::{Value, json};
use vitals::event::{Event, NO_PATIENT, READING, READING_RETRACTED, RULE_CHANGED, Recorded};
use vitals::rules::evaluate::in_order;
use vitals::rules::past::Past;
use vitals::rules::{Evaluator, Rule, RuleSnapshot};
use vitals::vital::Vital;

use self::acts::{Act, Measured, RULES, act, event, log_of, measured, retraction, rule, start};

fn book(only: &[usize]) -> Arc<RuleSnapshot> {
    let rules = only.iter().map(|n| Rule::read(&rule(*n, 1), 1).unwrap());
    Arc::new(RuleSnapshot::with_rules(rules.collect()).unwrap())
}

/// What was said, and what is remembered at the end.
struct Judged {
    said: Vec<Event>,
    states: BTreeMap<String, Value>,
}

fn judge(book: Arc<RuleSnapshot>, log: &[Recorded], upto: DateTime<Utc>) -> Judged {
    let (mut book, mut evaluator, mut said) = (book, Evaluator::default(), Vec::new());
    let mut ordered = log.to_vec();
    in_order(&mut ordered);
    for recorded in &ordered {
        if Evaluator::needs_past(&book, recorded).unwrap() {
            evaluator.read_back(Past::of(log, recorded));
        }
        evaluator.event(&mut book, recorded, &mut said).unwrap();
    }
    evaluator.ticks(&book, upto, &mut said);
    let changed = evaluator.changed(&book).unwrap();
    let states = changed.into_iter().filter_map(|changed| {
        let mut state: Value = serde_json::from_str(changed.json.as_deref()?).unwrap();
        let rule = changed.rule.and_then(|rule| book.of("ward").set.named(rule));
        // What is remembered of another version's condition counts no more, and is forgotten
        // when the rule is asked next.
        if rule.is_some_and(|rule| state["version"] != rule.version) {
            let fields = state.as_object_mut().unwrap();
            fields.retain(|key, _| ["active", "missed"].contains(&key.as_str()));
        }
        let is_something = state.as_object().is_some_and(|fields| !fields.is_empty());
        is_something.then(|| (changed.rule.unwrap_or("facts").to_owned(), state))
    });
    let states = states.collect();
    Judged { said, states }
}

/// Without what an alert that goes on keeps: its name, and what was said of it.
fn bare(mut states: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    for state in states.values_mut() {
        if let Some(active) = state.get_mut("active").and_then(Value::as_object_mut) {
            let kept = ["since", "broken_at", "heard_at", "ground", "recovering", "shadow"];
            active.retain(|key, _| kept.contains(&key.as_str()));
        }
    }
    states
}

fn check(only: &[usize], acts: &[Act]) {
    let log = log_of(acts);
    let Some(last) = log.last() else { return };
    let upto = last.recorded_at;
    let found = judge(book(only), &log, upto);
    let mut wrong = Vec::new();
    for recorded in log.iter().filter(|r| r.event.kind == READING_RETRACTED) {
        let data: Value = serde_json::from_str(recorded.event.data.as_ref().unwrap()).unwrap();
        wrong.push(data["readingPosition"].as_i64().unwrap());
    }
    let mut without = log.clone();
    without.retain(|r| r.event.kind != READING_RETRACTED && !wrong.contains(&r.position));
    let expected = judge(book(only), &without, upto);
    assert_eq!(bare(found.states), bare(expected.states));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_a_correction_each_rule_remembers_what_the_log_says_without_the_reading(
        n in 0..RULES.len(),
        acts in prop::collection::vec(act(), 1..60),
    ) {
        check(&[n], &acts);
    }

    #[test]
    fn rules_that_hold_and_inhibit_each_other_are_corrected_together(
        acts in prop::collection::vec(act(), 1..60),
    ) {
        check(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], &acts);
    }

    #[test]
    fn the_order_in_which_readings_come_in_one_batch_decides_nothing(
        before in prop::collection::vec(prop::collection::vec(measured(), 1..4), 0..4),
        (batch, shuffled) in prop::collection::vec(measured(), 2..9)
            .prop_flat_map(|batch| (Just(batch.clone()), Just(batch).prop_shuffle())),
    ) {
        // The same readings, so the same one of two with the same key.
        let mut seen = std::collections::HashSet::new();
        let key = |of: &Measured| (of.device, of.spo2, of.ago);
        let batch: Vec<Measured> = batch.into_iter().filter(|of| seen.insert(key(of))).collect();
        let value = |of: &Measured| batch.iter().find(|one| key(one) == key(of)).unwrap().clone();
        let mut shuffled: Vec<Measured> = shuffled.iter().map(value).collect();
        let mut seen = std::collections::HashSet::new();
        shuffled.retain(|of| seen.insert(key(of)));
        let said = |last: Vec<Measured>| {
            let batches = before.iter().cloned().chain([last]).map(Act::Batch);
            let log = log_of(&batches.collect::<Vec<_>>());
            let all: Vec<usize> = (0..RULES.len()).collect();
            let Judged { said, states } = judge(book(&all), &log, log[log.len() - 1].recorded_at);
            // Positions differ, and what is made of them.
            let said: Vec<(String, DateTime<Utc>, Value)> = said.iter().map(|event| {
                let mut data: Value = serde_json::from_str(event.data.as_ref().unwrap()).unwrap();
                (data["alertId"], data["readingPosition"]) = (Value::Null, Value::Null);
                (event.kind.clone(), event.occurred_at, data)
            }).collect();
            (said, nameless(json!(states)))
        };
        prop_assert_eq!(said(batch.clone()), said(shuffled));
    }
}

/// Without positions, and without ids, which are made of them.
fn nameless(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        map.retain(|key, _| key != "position" && key != "id");
        map.values_mut().for_each(|inner| *inner = nameless(inner.take()));
    } else if let Some(list) = value.as_array_mut() {
        list.iter_mut().for_each(|inner| *inner = nameless(inner.take()));
    }
    value
}

/// Heart rates of `bedside`: seconds, value; each its own append, in this order.
fn appends(rows: &[(i64, f64)]) -> Vec<Recorded> {
    let recorded = |(n, (second, value)): (usize, &(i64, f64))| Recorded {
        shard: 0,
        position: n as i64 + 1,
        recorded_at: start() + TimeDelta::seconds(60) + TimeDelta::milliseconds(n as i64),
        event: Event {
            vital: Some(Vital::HeartRate),
            value: Some(*value),
            source_id: "bedside".to_owned(),
            ..event("p", READING, start() + TimeDelta::seconds(*second), None)
        },
    };
    rows.iter().enumerate().map(recorded).collect()
}

#[test]
fn a_reading_older_than_one_that_was_judged_is_at_most_missed() {
    for n in [0, 1] {
        let log = appends(&[(50, 80.0), (40, 85.0), (30, 130.0), (51, 130.0)]);
        let said = judge(book(&[n]), &log, log[3].recorded_at).said;
        let kinds: Vec<(&str, i64)> = said
            .iter()
            .map(|event| (&*event.kind, (event.occurred_at - start()).num_seconds()))
            .collect();
        assert_eq!(kinds, [("ALERT_MISSED", 30), (&*format!("R{n}"), 51)]);
    }
}

/// What was said, as the state of the alert and the value that it is about.
fn states(said: &[Event]) -> Vec<(String, f64)> {
    let state = |event: &Event| {
        let data: Value = serde_json::from_str(event.data.as_ref().unwrap()).unwrap();
        (data["state"].as_str().unwrap().to_owned(), data["value"].as_f64().unwrap())
    };
    said.iter().map(state).collect()
}

#[track_caller]
fn corrected(rows: &[(i64, f64)], wrong: usize, expect: &[(&str, f64)]) {
    let mut log = appends(rows);
    let event = retraction(&log[wrong]);
    let position = log.len() as i64 + 1;
    let recorded_at = log[log.len() - 1].recorded_at + TimeDelta::seconds(1);
    log.push(Recorded { shard: 0, position, recorded_at, event });
    let said = states(&judge(book(&[0]), &log, recorded_at).said);
    let expect: Vec<(String, f64)> = expect.iter().map(|(s, v)| ((*s).to_owned(), *v)).collect();
    assert_eq!(said, expect);
}

#[test]
fn what_would_only_have_been_an_episode_of_the_past_is_said_to_nobody() {
    // With 130 up to the end of 90, it was over long ago.
    let rows = [(0, 130.0), (10, 80.0), (20, 90.0)];
    corrected(&rows, 1, &[("raised", 130.0), ("cleared", 80.0)]);
    // Nothing came after it: it holds now.
    corrected(&rows[..2], 1, &[("raised", 130.0), ("cleared", 80.0), ("raised", 130.0)]);
    // The alert goes on, on what is left, and ends when nothing is.
    corrected(&[(0, 130.0), (10, 135.0)], 0, &[("raised", 130.0), ("corrected", 135.0)]);
    corrected(&[(0, 130.0), (10, 135.0)], 1, &[("raised", 130.0)]);
    corrected(&[(0, 130.0)], 0, &[("raised", 130.0), ("retracted", 130.0)]);
}

#[test]
fn an_alert_from_before_what_is_read_again_goes_on() {
    // Above the clearing number ever since, and for long not above the raising one.
    let mut rows: Vec<(i64, f64)> = vec![(0, 130.0)];
    rows.extend((1..60).map(|second| (second, 108.0)));
    let mut log = appends(&rows);
    let event = retraction(&log[30]);
    let recorded_at = log[log.len() - 1].recorded_at + TimeDelta::seconds(1);
    log.push(Recorded { shard: 0, position: 61, recorded_at, event });
    let delayed = json!({
        "id": "r", "event": "R", "priority": "high", "mode": "active",
        "when": { "vital": "heart_rate", "op": ">", "value": 120 }, "clear": { "value": 105 },
    });
    let delayed = Rule::read(&delayed, 1).unwrap();
    let mut book = Arc::new(RuleSnapshot::with_rules(vec![delayed]).unwrap());
    let (mut evaluator, mut said) = (Evaluator::default(), Vec::new());
    for recorded in &log {
        if recorded.event.kind == READING_RETRACTED {
            // Ten readings are read, and not the one that raised it.
            evaluator.read_back(Past { events: log[50..].to_vec() });
        }
        evaluator.event(&mut book, recorded, &mut said).unwrap();
    }
    assert_eq!(states(&said), [("raised".to_owned(), 130.0)]);
}

/// Heart rates of `bedside` and changes of the one rule, in this order; what was said of them
/// when this one of them has been retracted, and `known` is read again of the past.
fn corrected_beside_changes(
    rows: &[Row],
    wrong: usize,
    known: impl Fn(&Recorded) -> bool,
) -> Vec<(String, String, f64)> {
    let mut version = 0;
    let mut log: Vec<Recorded> = Vec::new();
    for (n, row) in rows.iter().enumerate() {
        let at = start() + TimeDelta::seconds(n as i64);
        let event = match row {
            Row::Measured(value) => Event {
                vital: Some(Vital::HeartRate),
                value: Some(*value),
                source_id: "bedside".to_owned(),
                ..event("p", READING, at, None)
            },
            Row::Mode(mode) => {
                version += 1;
                let mut body = rule(0, 1);
                body["mode"] = (*mode).into();
                let data = json!({ "rule": body, "version": version });
                event(NO_PATIENT, RULE_CHANGED, at, Some(data))
            }
        };
        log.push(Recorded { shard: 0, position: n as i64 + 1, recorded_at: at, event });
    }
    let recorded_at = start() + TimeDelta::seconds(rows.len() as i64);
    let (position, event) = (rows.len() as i64 + 1, retraction(&log[wrong]));
    log.push(Recorded { shard: 0, position, recorded_at, event });
    let (mut book, mut evaluator, mut said) = (book(&[]), Evaluator::default(), Vec::new());
    for recorded in &log {
        let mut past = Past::of(&log, recorded);
        past.events.retain(&known);
        evaluator.read_back(past);
        evaluator.event(&mut book, recorded, &mut said).unwrap();
    }
    let kinds = said.iter().map(|event| event.kind.clone());
    kinds.zip(states(&said)).map(|(kind, (state, value))| (kind, state, value)).collect()
}

enum Row {
    Measured(f64),
    Mode(&'static str),
}

#[track_caller]
fn same(said: Vec<(String, String, f64)>, expect: &[(&str, &str, f64)]) {
    let expect = expect.iter().map(|(k, s, v)| ((*k).to_owned(), (*s).to_owned(), *v));
    assert_eq!(said, expect.collect::<Vec<_>>());
}

#[test]
fn what_was_only_tried_does_not_keep_a_page_for_a_wrong_reading_standing() {
    use Row::{Measured, Mode};
    // It was tried, then it paged: the trial's alert had ended with the trial.
    let rows = [Mode("shadow"), Measured(130.0), Mode("active"), Measured(135.0)];
    same(
        corrected_beside_changes(&rows, 3, |_| true),
        &[
            ("alert_shadowed", "raised", 130.0),
            ("R0", "raised", 135.0),
            ("ALERT_RETRACTED", "retracted", 135.0),
        ],
    );
    // It paged, then it was tried: without the page only the trial's alert stands.
    let rows = [Mode("active"), Measured(130.0), Mode("shadow"), Measured(135.0)];
    same(
        corrected_beside_changes(&rows, 1, |_| true),
        &[
            ("R0", "raised", 130.0),
            ("ALERT_RETRACTED", "retracted", 130.0),
            ("alert_shadowed", "raised", 135.0),
        ],
    );
}

#[test]
fn a_rule_whose_change_is_not_read_again_is_there_from_the_beginning() {
    use Row::{Measured, Mode};
    let rows = [Mode("active"), Measured(130.0), Measured(135.0)];
    let is_no_change = |recorded: &Recorded| recorded.event.kind != RULE_CHANGED;
    same(corrected_beside_changes(&rows, 2, is_no_change), &[("R0", "raised", 130.0)]);
}
