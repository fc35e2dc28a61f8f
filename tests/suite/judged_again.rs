//! Corrections and order: what the rules remember is what the log says without what was
//! entered in error, and the order in a batch decides nothing.
//!
//! No database: the evaluator is a fold over the log's events.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde_json::{Value, json};
use vitals::event::{
    Event, NO_PATIENT, PATIENT_REGISTERED, READING, READING_RETRACTED, RULE_CHANGED, Recorded,
};
use vitals::rules::evaluate::in_order;
use vitals::rules::past::Past;
use vitals::rules::{Book, Evaluator, Rule};
use vitals::vital::Vital;

/// One rule of each kind.
const RULES: [&str; 10] = [
    r#"priority = "high"
       when = { vital = "heart_rate", op = ">", value = 120 }"#,
    r#"priority = "medium"
       when = { vital = "heart_rate", op = ">", value = 120 }
       bounds = { min = 100, max = 140 }"#,
    r#"priority = "high"
       when = { vital = "heart_rate", op = ">", value = 110 }
       on_delay = "10s"
       min_samples = 2
       max_gap = "8s"
       clear = { value = 105, off_delay = "9s" }
       re_alarm = "20s"
       escalate = [{ after = "5s", unless = "acked", event = "ESCALATED" }]"#,
    r#"priority = "medium"
       when = { all = [{ vital = "heart_rate", op = ">", value = 100 }, { not = { vital = "spo2", op = ">=", value = 92 } }] }
       inhibited_by = ["r0"]"#,
    r#"priority = "high"
       when = { count = { vital = "spo2", op = "<", value = 90, n = 2, of = 4 } }
       scope = { ward = ["w1"] }"#,
    r#"priority = "medium"
       when = { delta = { vital = "heart_rate", op = ">=", value = 25, within = "30s" } }
       latch = true"#,
    r#"priority = "low"
       when = { count = { vital = "heart_rate", op = ">", value = 115, n = 3, within = "20s" } }"#,
    r#"priority = "medium"
       when = { score = { at_least = 3, any_single = 3 } }"#,
    r#"priority = "technical"
       when = { suspect = {} }
       min_samples = 2"#,
    r#"priority = "technical"
       when = { missing = { for = "25s" } }
       on_delay = "3s""#,
];

fn rule(n: usize, version: u32) -> Value {
    let text = format!("id = \"r{n}\"\nevent = \"R{n}\"\nmode = \"active\"\n{}", RULES[n]);
    let mut body: Value = toml::from_str(&text).unwrap();
    if version.is_multiple_of(2) && body["when"]["value"].is_number() {
        body["when"]["value"] = json!(125);
    }
    body
}

fn book(only: &[usize]) -> Arc<Book> {
    let rules = only.iter().map(|n| Rule::read(&rule(*n, 1), 1).unwrap());
    Arc::new(Book::with_rules(rules.collect()).unwrap())
}

fn start() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

#[derive(Clone, Debug)]
struct Measured {
    device: u8,
    spo2: bool,
    /// Seconds before it was recorded.
    ago: i64,
    value: u8,
    suspect: bool,
}

#[derive(Clone, Debug)]
enum Act {
    /// What one append brings.
    Batch(Vec<Measured>),
    /// The reading of this number, counted from the newest, was wrong.
    Retract(usize),
    Register {
        ward: u8,
        limit: u8,
    },
    Change(usize),
    /// Nothing comes for a while.
    Pause(i64),
}

fn measured() -> impl Strategy<Value = Measured> {
    let ago = prop_oneof![6 => 0..4_i64, 3 => 4..40_i64, 1 => 130..600_i64, 1 => -200..0_i64];
    (0..2_u8, prop::bool::weighted(0.3), ago, 0..70_u8, prop::bool::weighted(0.08)).prop_map(
        |(device, spo2, ago, value, suspect)| Measured { device, spo2, ago, value, suspect },
    )
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => prop::collection::vec(measured(), 1..4).prop_map(Act::Batch),
        4 => (0..12_usize).prop_map(Act::Retract),
        1 => (0..2_u8, 0..60_u8).prop_map(|(ward, limit)| Act::Register { ward, limit }),
        1 => (0..RULES.len()).prop_map(Act::Change),
        1 => (10..60_i64).prop_map(Act::Pause),
    ]
}

fn event(patient_id: &str, kind: &str, at: DateTime<Utc>, data: Option<Value>) -> Event {
    Event {
        tenant: "ward".into(),
        patient_id: patient_id.to_owned(),
        kind: kind.to_owned(),
        vital: None,
        value: None,
        quality: None,
        suspect: false,
        occurred_at: at,
        source_id: "somebody".to_owned(),
        data: data.map(|data| data.to_string()),
    }
}

fn reading(of: &Measured, now: DateTime<Utc>) -> Event {
    let (base, most) = if of.spo2 { (50.0, 50.0) } else { (80.0, 70.0) };
    let value = if of.suspect { 0.0 } else { base + f64::from(of.value).min(most) };
    Event {
        vital: Some(if of.spo2 { Vital::Spo2 } else { Vital::HeartRate }),
        value: Some(value),
        suspect: of.suspect,
        source_id: format!("d{}", of.device),
        ..event("p", READING, now - TimeDelta::seconds(of.ago), None)
    }
}

/// The log that acts make.
fn log_of(acts: &[Act]) -> Vec<Recorded> {
    let (mut log, mut now, mut versions) = (Vec::<Recorded>::new(), start(), [1; RULES.len()]);
    let mut gone = Vec::new();
    for act in acts {
        now += TimeDelta::seconds(2);
        let events: Vec<Event> = match act {
            Act::Pause(seconds) => {
                now += TimeDelta::seconds(*seconds);
                continue;
            }
            Act::Batch(batch) => batch.iter().map(|of| reading(of, now)).collect(),
            Act::Register { ward, limit } => {
                let limits = json!({ "heart_rate_high": 90 + limit });
                let record = json!({ "ward": format!("w{ward}"), "limits": limits });
                let data = json!({ "v": 1, "record": record });
                vec![event("p", PATIENT_REGISTERED, now, Some(data))]
            }
            Act::Change(n) => {
                versions[*n] += 1;
                let data = json!({ "rule": rule(*n, versions[*n]), "version": versions[*n] });
                vec![event(NO_PATIENT, RULE_CHANGED, now, Some(data))]
            }
            Act::Retract(nth) => {
                let mut readings = log.iter().rev().filter(|r| r.event.kind == READING);
                let Some(wrong) = readings.nth(*nth) else { continue };
                if gone.contains(&wrong.position) {
                    continue;
                }
                gone.push(wrong.position);
                vec![retraction(wrong)]
            }
        };
        for event in events {
            let key = |e: &Event| (e.vital, e.occurred_at, e.source_id.clone());
            let known = |r: &Recorded| r.event.kind == READING && key(&r.event) == key(&event);
            if event.kind != READING || !log.iter().any(known) {
                let position = log.len() as i64 + 1;
                log.push(Recorded { shard: 0, position, recorded_at: now, event });
            }
        }
    }
    log
}

fn retraction(wrong: &Recorded) -> Event {
    let data = json!({
        "v": 1, "vital": wrong.event.vital, "deviceId": wrong.event.source_id,
        "measuredAt": wrong.event.occurred_at, "readingPosition": wrong.position, "reason": "r",
    });
    event("p", READING_RETRACTED, wrong.event.occurred_at, Some(data))
}

/// What was said, and what is remembered at the end.
struct Judged {
    said: Vec<Event>,
    states: BTreeMap<String, Value>,
}

fn judge(book: Arc<Book>, log: &[Recorded], upto: DateTime<Utc>) -> Judged {
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
        let state = serde_json::from_str(changed.json.as_deref()?).unwrap();
        Some((changed.rule.unwrap_or("facts").to_owned(), state))
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

/// Where a rule was changed between the readings, since when its alert stands may differ:
/// that is a known limit, and not held here.
fn check(only: &[usize], acts: &[Act]) {
    let mut acts = acts.to_vec();
    acts.retain(|act| !matches!(act, Act::Change(_)));
    let log = log_of(&acts);
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
    let mut book = Arc::new(Book::with_rules(vec![delayed]).unwrap());
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
