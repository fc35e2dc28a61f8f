//! What happens in the streams that are judged again, as a log.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde_json::{Value, json};
use vitals::event::{
    Event, NO_PATIENT, PATIENT_REGISTERED, READING, READING_RETRACTED, RULE_CHANGED, Recorded,
};
use vitals::vital::Vital;

/// One rule of each kind.
pub const RULES: [&str; 10] = [
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

pub fn rule(n: usize, version: u32) -> Value {
    let text = format!("id = \"r{n}\"\nevent = \"R{n}\"\nmode = \"active\"\n{}", RULES[n]);
    let mut body: Value = toml::from_str(&text).unwrap();
    if version.is_multiple_of(2) && body["when"]["value"].is_number() {
        body["when"]["value"] = json!(125);
    }
    body
}

pub fn start() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

#[derive(Clone, Debug)]
pub struct Measured {
    pub device: u8,
    pub spo2: bool,
    /// Seconds before it was recorded.
    pub ago: i64,
    pub value: u8,
    pub suspect: bool,
}

#[derive(Clone, Debug)]
pub enum Act {
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

pub fn measured() -> impl Strategy<Value = Measured> {
    let ago = prop_oneof![6 => 0..4_i64, 3 => 4..40_i64, 1 => 130..600_i64, 1 => -200..0_i64];
    (0..2_u8, prop::bool::weighted(0.3), ago, 0..70_u8, prop::bool::weighted(0.08)).prop_map(
        |(device, spo2, ago, value, suspect)| Measured { device, spo2, ago, value, suspect },
    )
}

pub fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => prop::collection::vec(measured(), 1..4).prop_map(Act::Batch),
        4 => (0..12_usize).prop_map(Act::Retract),
        1 => (0..2_u8, 0..60_u8).prop_map(|(ward, limit)| Act::Register { ward, limit }),
        2 => (0..RULES.len()).prop_map(Act::Change),
        1 => (10..60_i64).prop_map(Act::Pause),
    ]
}

pub fn event(patient_id: &str, kind: &str, at: DateTime<Utc>, data: Option<Value>) -> Event {
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

pub fn reading(of: &Measured, now: DateTime<Utc>) -> Event {
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
pub fn log_of(acts: &[Act]) -> Vec<Recorded> {
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

pub fn retraction(wrong: &Recorded) -> Event {
    let data = json!({
        "v": 1, "vital": wrong.event.vital, "deviceId": wrong.event.source_id,
        "measuredAt": wrong.event.occurred_at, "readingPosition": wrong.position, "reason": "r",
    });
    event("p", READING_RETRACTED, wrong.event.occurred_at, Some(data))
}
