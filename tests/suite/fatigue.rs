//! Alarm fatigue, on real recordings: what the shipped rules would have raised.
//!
//! No database: the rules are a pure fold. The readings come as they were measured.

use std::io::Read;

use chrono::{DateTime, TimeDelta, Utc};
use vitals::event::{AlertEventKind, Priority};
use vitals::rules::facts::Facts;
use vitals::rules::registry::shipped_rules;
use vitals::rules::{Context, Input, Judged, Reading, Rule, RuleState, due, step};
use vitals::vital::Vital;

use crate::support::data;

/// One reading: when, what, how much.
type Row = (DateTime<Utc>, Vital, f64);

fn shipped(id: &str) -> Rule {
    let rule = shipped_rules().unwrap().into_iter().find(|rule| rule.id == id).unwrap();
    Rule { mode: vitals::rules::Mode::Active, ..rule }
}

/// How many alerts a rule raises over one patient's readings.
fn raised(rule: &Rule, rows: &[Row]) -> usize {
    let (mut state, mut said, facts) = (RuleState::default(), Vec::new(), Facts::default());
    let context = Context {
        tenant: "t",
        patient_id: "p",
        installation: uuid::Uuid::nil(),
        facts: &facts,
        inhibited: false,
        device_distrusted: false,
        silence: None,
    };
    for (n, &(at, vital, value)) in rows.iter().enumerate() {
        while let Some(tick) = due(rule, &state).filter(|tick| *tick <= at) {
            step(rule, &mut state, &Input::Tick(tick), &context, &mut said);
        }
        let Ok(measured) = vital.measure(value, None) else { continue };
        let reading = Reading {
            device_id: "d",
            position: n as i64 + 1,
            vital,
            value: measured.value,
            quality: None,
            suspect: measured.suspect,
            occurred_at: at,
            recorded_at: at,
            judged: Judged::default(),
        };
        step(rule, &mut state, &Input::Reading(reading), &context, &mut said);
    }
    said.iter().filter(|said| said.data.state == AlertEventKind::Raised).count()
}

/// Ten people walk to an exam: heart rates at 1 Hz, by session.
fn walkers() -> Vec<Vec<Row>> {
    let file = std::fs::File::open(data("wearable-e4-exam/hr_1hz.csv.gz")).unwrap();
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
    let mut sessions: Vec<(String, Vec<Row>)> = Vec::new();
    for line in text.lines().skip(1) {
        let [subject, session, at, value] = line.split(',').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let name = format!("{subject}/{session}");
        if sessions.last().is_none_or(|(last, _)| *last != name) {
            sessions.push((name, Vec::new()));
        }
        let row = (at.parse().unwrap(), Vital::HeartRate, value.parse().unwrap());
        sessions.last_mut().unwrap().1.push(row);
    }
    sessions.into_iter().map(|(_, rows)| rows).collect()
}

#[test]
fn walking_raises_at_most_a_tenth_of_what_the_bare_number_raises() {
    let sessions = walkers();
    assert_eq!((sessions.len(), sessions.iter().map(Vec::len).sum::<usize>()), (30, 443_002));
    let shipped = shipped("hr-high");
    let mut naive = Rule::parse(
        "id = \"n\"\nevent = \"N\"\npriority = \"high\"\nmode = \"active\"\n\
         when = { vital = \"heart_rate\", op = \">\", value = 130 }",
        1,
    )
    .unwrap();
    naive.version = shipped.version;
    let count = |rule: &Rule| sessions.iter().map(|rows| raised(rule, rows)).sum::<usize>();
    // Counted apart from this program as well.
    assert_eq!((count(&naive), count(&shipped)), (1_021, 97));
    assert!(count(&shipped) * 10 <= count(&naive));
}

/// A bedside monitor once a minute, with the sensor off for 46 of them.
fn bedside(path: &str) -> Vec<Row> {
    let text = std::fs::read_to_string(data(path)).unwrap();
    let columns: Vec<Option<Vital>> = text
        .lines()
        .next()
        .unwrap()
        .split(',')
        .map(|column| match column {
            "HR_bpm" => Some(Vital::HeartRate),
            "RESP_permin" => Some(Vital::RespiratoryRate),
            "SpO2_pct" => Some(Vital::Spo2),
            "NBPSys_mmHg" => Some(Vital::SystolicBp),
            _ => None,
        })
        .collect();
    let begin = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
    let mut rows = Vec::new();
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let at = begin + TimeDelta::minutes(cells[0].parse().unwrap());
        for (vital, cell) in columns.iter().zip(&cells) {
            if let (Some(vital), Ok(value)) = (vital, cell.parse()) {
                rows.push((at, *vital, value));
            }
        }
    }
    rows
}

#[test]
fn a_sensor_that_is_off_raises_no_physiological_alert_and_tells_of_itself() {
    let rows = bedside("icu-bedside-numerics/s00001_32h_1min.csv");
    // The minutes in which the sensor was off, and nothing else.
    let heart_at = |at| {
        rows.iter().any(|(t, vital, value)| *t == at && *vital == Vital::HeartRate && *value == 0.0)
    };
    let off: Vec<Row> = rows
        .iter()
        .filter(|(at, vital, value)| {
            *value == 0.0 && heart_at(*at) && matches!(vital, Vital::HeartRate | Vital::Spo2)
        })
        .copied()
        .collect();
    let minutes = off.iter().filter(|(_, vital, _)| *vital == Vital::HeartRate).count();
    assert_eq!(minutes, 46);
    for rule in shipped_rules().unwrap() {
        let rule = Rule { mode: vitals::rules::Mode::Active, ..rule };
        if rule.priority != Priority::Technical {
            assert_eq!(raised(&rule, &off), 0, "{}", rule.id);
        }
    }
    assert!(raised(&shipped("signal-suspect"), &rows) > 0);
}
