//! What questions find, as the wire has it: readings, states, alerts.
//!
//! Guarantees one way from a row to an answer, and that a stored word that is not known is
//! an error and not an answer. Does not ask anything.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::de::value::{Error as NoWord, StrDeserializer};
use serde_json::Value;

use super::problem::Problem;
use crate::query::alerts::Alert;
use crate::query::state::{Newest, PatientState};
use crate::rules::news2;
use crate::wire::{
    self, Acknowledgement, Band, Context, Current, News2, Number, Opinion, Quality, Time,
};

/// What is stored, and cannot be read by this version.
pub fn unreadable(what: &str, error: impl std::fmt::Display) -> Problem {
    tracing::error!(%error, "{what}, as it is stored, cannot be read");
    let detail = format!("{what}, as it is stored, cannot be read by this version: {error}");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "stored_unreadable", detail)
}

/// A word as the wire has it.
pub fn word<T: DeserializeOwned>(word: &str) -> Result<T, Problem> {
    let read = T::deserialize(StrDeserializer::<NoWord>::new(word));
    read.map_err(|error| unreadable("a word", error))
}

/// Stored JSON as its type.
pub fn stored<T: DeserializeOwned>(what: &str, json: &str) -> Result<T, Problem> {
    serde_json::from_str(json).map_err(|error| unreadable(what, error))
}

/// An alert as lists and states show it.
pub fn alert(alert: &Alert) -> Result<wire::Alert, Problem> {
    let link = format!("/api/v1/alerts/{}", alert.id);
    Ok(wire::Alert {
        id: alert.id,
        patient_id: alert.patient_id.clone().into(),
        event: alert.event.clone(),
        state: word(alert.state.name())?,
        priority: alert.priority,
        vital: alert.vital,
        value: Number(alert.value),
        unit: alert.unit.clone().into(),
        device_id: alert.device_id.clone().into(),
        rule: alert.rule.clone().into(),
        rule_version: alert.rule_version,
        since: alert.since.into(),
        raised_at: alert.raised_at.into(),
        cleared_at: alert.cleared_since.map(Time),
        cleared_value: alert.cleared_value.map(Number),
        acknowledged: acknowledged(alert)?,
        links: [
            ("self", link.clone()),
            ("ack", format!("{link}/ack")),
            ("patient", format!("/api/v1/patients/{}", alert.patient_id)),
        ]
        .into(),
        mode: None,
    })
}

/// Alerts as lists and states show them.
pub fn alerts(alerts: &[Alert]) -> Result<Vec<wire::Alert>, Problem> {
    alerts.iter().map(alert).collect()
}

/// Who has answered it.
pub fn acknowledged(alert: &Alert) -> Result<Option<Acknowledgement>, Problem> {
    let text = alert.acknowledged.as_deref();
    text.map(|text| stored("an acknowledgement", text)).transpose()
}

/// A reading of a history.
pub fn reading(patient_id: &str, newest: Newest) -> wire::Reading<'static> {
    wire::Reading {
        patient_id: patient_id.to_owned().into(),
        device_id: newest.device_id.into(),
        vital: newest.vital,
        value: Number(newest.value),
        unit: newest.vital.unit().into(),
        quality: Quality::of(newest.suspect),
        measured_at: newest.measured_at.into(),
        recorded_at: newest.recorded_at.into(),
        device_quality: newest.quality.map(Opinion),
        context: newest.context.map(Context::new),
    }
}

/// A patient's state. `now` is what ages are counted to unless a moment is asked for.
pub fn state(
    patient_id: &str,
    state: PatientState,
    now: DateTime<Utc>,
) -> Result<wire::State, Problem> {
    let moment = state.moment;
    let at = moment.as_of.unwrap_or(now);
    let age = |newest: &Newest| (at - newest.measured_at).num_milliseconds().max(0) as f64 / 1e3;
    let record: Value =
        state.record.as_deref().and_then(|r| serde_json::from_str(r).ok()).unwrap_or_default();
    let scale = match record.get("spo2Scale").and_then(Value::as_i64) {
        Some(2) => news2::Scale::Two,
        _ => news2::Scale::One,
    };
    let input = |newest: &Newest| news2::Input {
        value: newest.value,
        age_seconds: age(newest),
        suspect: newest.suspect,
    };
    let newest = |vital| state.vitals.iter().find(|newest| newest.vital == vital);
    let news2 = news2::score(|vital| newest(vital).map(input), scale);
    let base = format!("/api/v1/patients/{patient_id}");
    Ok(wire::State {
        patient_id: patient_id.to_owned().into(),
        ward: record.get("ward").and_then(Value::as_str).map(str::to_owned),
        as_of: moment.as_of.map(Time),
        known_at: moment.known_at.map(Time),
        alerts: alerts(&state.alerts)?,
        news2: score(news2),
        vitals: state.vitals.into_iter().map(|newest| current(age(&newest), newest)).collect(),
        links: [
            ("self", base.clone()),
            ("readings", format!("{base}/readings")),
            ("replay", format!("{base}/replay")),
        ]
        .into(),
    })
}

fn current(age_seconds: f64, newest: Newest) -> (crate::vital::Vital, Current) {
    let current = Current {
        value: Number(newest.value),
        unit: newest.vital.unit().into(),
        measured_at: newest.measured_at.into(),
        recorded_at: newest.recorded_at.into(),
        device_id: newest.device_id.into(),
        quality: Quality::of(newest.suspect),
        age_seconds: age_seconds.floor() as i64,
    };
    (newest.vital, current)
}

fn score(of: news2::News2) -> News2 {
    let news2::News2 { score, band, partial, missing, stale, parts } = of;
    let band = match band {
        news2::Band::Low => Band::Low,
        news2::Band::LowMedium => Band::LowMedium,
        news2::Band::Medium => Band::Medium,
        news2::Band::High => Band::High,
    };
    let parts: BTreeMap<&str, u32> = parts;
    News2 { score, band, partial, missing, stale, parts }
}
