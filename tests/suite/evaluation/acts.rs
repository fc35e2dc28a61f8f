//! What happens in the streams that live and replay are compared on, as events of the log.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;
use vitals::event::{
    ALERT_ACKNOWLEDGED, ALERT_CLEAR_REQUESTED, Event, NO_PATIENT, PATIENT_REGISTERED, READING,
    READING_RETRACTED, RULE_CHANGED,
};
use vitals::log::Log;
use vitals::rules::evaluate::SILENCE_SET;
use vitals::vital::Vital;

use super::{RULES, text_of};
use crate::hospital::now;

#[derive(Clone, Debug)]
pub enum Act {
    Reading {
        patient: u8,
        device: u8,
        spo2: bool,
        second: u8,
        value: u8,
        suspect: bool,
        late: bool,
    },
    /// Readings of one append.
    Together(Vec<Act>),
    /// Acknowledges whatever stands.
    Acknowledge {
        patient: u8,
    },
    /// Clears whatever stands.
    Clear {
        patient: u8,
    },
    /// This reading, counted from the newest, was wrong.
    Retract {
        patient: u8,
        nth: u8,
    },
    /// Begins, or has another end.
    Silence {
        patient: u8,
        milliseconds: u8,
    },
    Register {
        patient: u8,
        ward: u8,
        limit: u8,
    },
    Change {
        rule: u8,
        retired: bool,
    },
}

pub fn act() -> impl Strategy<Value = Act> {
    let reading = (
        0..3_u8,
        0..2_u8,
        any::<bool>(),
        0..60_u8,
        0..70_u8,
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.15),
    );
    let reading = reading.prop_map(|(patient, device, spo2, second, value, suspect, late)| {
        Act::Reading { patient, device, spo2, second, value, suspect, late }
    });
    prop_oneof![
        16 => reading.clone(),
        3 => prop::collection::vec(reading, 2..6).prop_map(Act::Together),
        3 => (0..3_u8, 0..8_u8).prop_map(|(patient, nth)| Act::Retract { patient, nth }),
        1 => (0..3_u8).prop_map(|patient| Act::Clear { patient }),
        1 => (0..3_u8, 0..90_u8).prop_map(|(patient, milliseconds)| Act::Silence { patient, milliseconds }),
        1 => (0..3_u8).prop_map(|patient| Act::Acknowledge { patient }),
        1 => (0..3_u8, 0..2_u8, 0..60_u8).prop_map(|(patient, ward, limit)| Act::Register { patient, ward, limit }),
        1 => (0..RULES.len() as u8, any::<bool>()).prop_map(|(rule, retired)| Act::Change { rule, retired }),
    ]
}

pub fn non_reading(patient_id: &str, kind: &str, at: DateTime<Utc>, data: Value) -> Event {
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
        data: Some(data.to_string()),
    }
}

/// The alert of a patient that stands, by its id.
async fn standing_alert(log: &Log, patient: &str) -> Option<String> {
    sqlx::query_scalar(
        "select state -> 'active' ->> 'id' from rule_state \
         where patient_id = $1 and state -> 'active' ->> 'id' is not null order by rule limit 1",
    )
    .bind(patient)
    .fetch_optional(log.pool())
    .await
    .unwrap()
}

/// The nth newest reading of a patient that counts: its vital, device, time and position.
async fn newest_standing(
    log: &Log,
    patient: &str,
    nth: u8,
) -> Option<(String, String, DateTime<Utc>, i64)> {
    sqlx::query_as(
        "select vital::text, source_id, occurred_at, position from event e \
         where patient_id = $1 and type = 'reading' and not exists (select from event x \
             where x.type = 'reading_retracted' and x.patient_id = e.patient_id \
               and (x.data ->> 'readingPosition')::bigint = e.position) \
         order by position desc offset $2 limit 1",
    )
    .bind(patient)
    .bind(i64::from(nth))
    .fetch_optional(log.pool())
    .await
    .unwrap()
}

fn retraction(
    patient: &str,
    (vital, device, at, position): (String, String, DateTime<Utc>, i64),
) -> Event {
    let data = json!({ "v": 1, "vital": vital, "deviceId": device, "measuredAt": at,
                       "readingPosition": position, "reason": "r" });
    non_reading(patient, READING_RETRACTED, at, data)
}

fn to_all_shards(log: &Log, event: &Event) -> Vec<(i16, Event)> {
    log.shards().map(|shard| (shard, event.clone())).collect()
}

/// What becomes of an act: where it goes, and as what. Acknowledgements name the alert
/// that stands, as a nurse does.
pub async fn events_of(log: &Log, act: &Act, versions: &mut [u32]) -> Vec<(i16, Event)> {
    let at = |second: u8| now() - TimeDelta::seconds(60 - i64::from(second));
    let name = |patient: &u8| format!("p{patient}");
    let shard = |patient: &u8| log.shard_of("ward", &name(patient));
    match act {
        Act::Reading { patient, device, spo2, second, value, suspect, late } => {
            let base = if *spo2 { 50.0 } else { 80.0 };
            let behind = TimeDelta::minutes(if *late { 10 } else { 0 });
            let event = Event {
                vital: Some(if *spo2 { Vital::Spo2 } else { Vital::HeartRate }),
                value: Some(if *suspect {
                    0.0
                } else {
                    base + f64::from(*value).min(if *spo2 { 50.0 } else { 70.0 })
                }),
                suspect: *suspect,
                source_id: format!("d{device}"),
                data: None,
                ..non_reading(&name(patient), READING, at(*second) - behind, Value::Null)
            };
            vec![(shard(patient), event)]
        }
        Act::Together(acts) => {
            let mut all = Vec::new();
            for act in acts {
                all.extend(Box::pin(events_of(log, act, versions)).await);
            }
            all
        }
        Act::Acknowledge { patient } | Act::Clear { patient } => {
            let standing = standing_alert(log, &name(patient)).await;
            let (kind, state) = match act {
                Act::Clear { .. } => (ALERT_CLEAR_REQUESTED, "clear_requested"),
                _ => (ALERT_ACKNOWLEDGED, "acknowledged"),
            };
            let data = |id| json!({ "v": 1, "alertId": id, "state": state });
            let event = |id| non_reading(&name(patient), kind, now(), data(id));
            standing.into_iter().map(|id| (shard(patient), event(id))).collect()
        }
        Act::Retract { patient, nth } => {
            let wrong = newest_standing(log, &name(patient), *nth).await;
            wrong
                .into_iter()
                .map(|wrong| (shard(patient), retraction(&name(patient), wrong)))
                .collect()
        }
        Act::Silence { patient, milliseconds } => {
            let until = now() + TimeDelta::milliseconds(i64::from(*milliseconds));
            let id = Uuid::from_u128(u128::from(*patient));
            let data = json!({ "id": id, "patientId": name(patient), "by": "b", "reason": "r",
                               "from": now(), "until": until });
            to_all_shards(log, &non_reading(NO_PATIENT, SILENCE_SET, now(), data))
        }
        Act::Register { patient, ward, limit } => {
            let record =
                json!({ "ward": format!("w{ward}"), "limits": { "heart_rate_high": 90 + limit } });
            let data = json!({ "v": 1, "record": record });
            vec![(shard(patient), non_reading(&name(patient), PATIENT_REGISTERED, now(), data))]
        }
        Act::Change { rule, retired } => {
            let n = usize::from(*rule);
            versions[n] += 1;
            let mut body: Value = toml::from_str(&text_of(n, RULES[n])).unwrap();
            body["mode"] = if *retired { "retired" } else { "active" }.into();
            let data = json!({ "rule": body, "version": versions[n] });
            to_all_shards(log, &non_reading(NO_PATIENT, RULE_CHANGED, now(), data))
        }
    }
}
