//! What happens in a case: readings, retractions, registrations and alerts, few of each.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;
use vitals::event::{
    ALERT_ACKNOWLEDGED, ALERT_CORRECTED, ALERT_MISSED, ALERT_RETRACTED, ALERT_SHADOWED, Event,
    PATIENT_REGISTERED, READING, READING_RETRACTED,
};
use vitals::vital::Vital;

use crate::log::time;

/// One thing that happens, small enough to print when a case fails.
#[derive(Clone, Debug)]
pub enum Act {
    Reading {
        patient: u8,
        device: u8,
        spo2: bool,
        minute: u8,
        value: u16,
        suspect: bool,
    },
    /// Of one of the readings before it, by its turn.
    Retract {
        which: u8,
    },
    Register {
        patient: u8,
        ward: u8,
    },
    /// What happens to an alert depends on what has happened to it before.
    Alert {
        patient: u8,
        alert: u8,
        missed: bool,
        acknowledge: bool,
        minute: u8,
    },
}

pub fn act() -> impl Strategy<Value = Act> {
    let reading = (0..3u8, 0..2u8, any::<bool>(), 0..12u8, 20..200u16, prop::bool::weighted(0.2))
        .prop_map(|(patient, device, spo2, minute, value, suspect)| Act::Reading {
            patient,
            device,
            spo2,
            minute,
            value,
            suspect,
        });
    let register = (0..3u8, 0..3u8).prop_map(|(patient, ward)| Act::Register { patient, ward });
    let alert = (0..3u8, 0..3u8, prop::bool::weighted(0.2), any::<bool>(), 0..12u8).prop_map(
        |(patient, alert, missed, acknowledge, minute)| Act::Alert {
            patient,
            alert,
            missed,
            acknowledge,
            minute,
        },
    );
    let retract = any::<u8>().prop_map(|which| Act::Retract { which });
    prop_oneof![6 => reading, 2 => retract, 1 => register, 3 => alert]
}

/// What the alerts of a case have been through.
#[derive(Default)]
pub struct Alerts(pub BTreeMap<(u8, u8), &'static str>);

pub fn at(minute: u8) -> DateTime<Utc> {
    // Across the border of two months.
    time("2026-03-31T23:54:00Z") + TimeDelta::minutes(minute.into())
}

pub fn event(patient: u8, kind: &str, at: DateTime<Utc>, data: Option<String>) -> Event {
    Event {
        tenant: "ward".into(),
        patient_id: format!("p{patient}"),
        kind: kind.to_owned(),
        vital: None,
        value: None,
        quality: None,
        suspect: false,
        occurred_at: at,
        source_id: "somebody".to_owned(),
        data,
    }
}

pub fn as_event(act: &Act, before: &[Event], alerts: &mut Alerts) -> Option<Event> {
    match *act {
        Act::Retract { which } => {
            let readings: Vec<&Event> = before.iter().filter(|e| e.vital.is_some()).collect();
            let reading = readings.get(usize::from(which) % readings.len().max(1))?;
            let data = json!({
                "v": 1, "vital": reading.vital, "deviceId": reading.source_id,
                "measuredAt": reading.occurred_at, "reason": "entered in error",
            });
            Some(Event {
                patient_id: reading.patient_id.clone(),
                ..event(0, READING_RETRACTED, reading.occurred_at, Some(data.to_string()))
            })
        }
        Act::Reading { patient, device, spo2, minute, value, suspect } => Some(Event {
            vital: Some(if spo2 { Vital::Spo2 } else { Vital::HeartRate }),
            value: Some(f64::from(value) / 2.0),
            quality: (value % 3 == 0).then_some(0.25),
            suspect,
            source_id: format!("d{device}"),
            ..event(patient, READING, at(minute), None)
        }),
        Act::Register { patient, ward } => {
            let mut record = json!({ "v": 1, "ward": format!("w{ward}") });
            // A record is its author's own text: it may look like an alert's.
            match ward {
                0 => {}
                1 => record["alertId"] = "no id".into(),
                _ => {
                    record["alertId"] = alert_id(patient, 0).to_string().into();
                    record["state"] = "cleared".into();
                }
            }
            Some(event(patient, PATIENT_REGISTERED, at(0), Some(record.to_string())))
        }
        Act::Alert { patient, alert, missed, acknowledge, minute } => {
            let id = alert_id(patient, alert);
            let state = match (alerts.0.get(&(patient, alert)), missed, acknowledge) {
                (None, true, _) => "missed",
                (None, false, _) => "raised",
                // Nobody is told of what is only tried, so nobody answers.
                (Some(_), _, true) if alert == ON_TRIAL => return None,
                (Some(_), _, true) => "acknowledged",
                (Some(&"raised"), _, false) if minute % 3 == 0 => "retracted",
                (Some(&"raised"), _, false) if minute % 3 == 1 => "corrected",
                (Some(&"raised"), _, false) if minute % 6 == 2 => "escalated",
                (Some(&"raised"), _, false) => "cleared",
                // A missed or a cleared alert is over.
                (Some(_), _, false) => return None,
            };
            if !["acknowledged", "corrected", "escalated"].contains(&state) {
                alerts.0.insert((patient, alert), state);
            }
            Some(alert_event(patient, (alert, id), state, minute))
        }
    }
}

pub fn alert_id(patient: u8, alert: u8) -> Uuid {
    Uuid::from_u128(u128::from(patient) << 8 | u128::from(alert))
}

/// Of a patient's alerts, the one of a rule on trial.
pub const ON_TRIAL: u8 = 2;

pub fn alert_event(patient: u8, (alert, id): (u8, Uuid), state: &str, minute: u8) -> Event {
    if state == "acknowledged" {
        let by = json!({ "by": format!("nurse {minute}"), "at": at(minute), "note": null });
        let data = json!({ "v": 1, "alertId": id, "state": state, "acknowledged": by });
        return event(patient, ALERT_ACKNOWLEDGED, at(minute), Some(data.to_string()));
    }
    let kind = match state {
        _ if alert == ON_TRIAL => ALERT_SHADOWED,
        "missed" => ALERT_MISSED,
        "retracted" => ALERT_RETRACTED,
        "corrected" => ALERT_CORRECTED,
        _ => "HIGH_HEART_RATE",
    };
    let data = json!({
        "v": 1, "alertId": id, "state": state, "rule": "r", "ruleVersion": 1,
        "event": "HIGH_HEART_RATE", "priority": "high", "vital": "heart_rate",
        "value": 100 + minute, "unit": "/min", "measuredAt": at(minute), "deviceId": "d0",
        "readingPosition": 1, "since": at(minute),
        "silencedBy": minute.is_multiple_of(4).then(Uuid::nil),
    });
    event(patient, kind, at(minute), Some(data.to_string()))
}
