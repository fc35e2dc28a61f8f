//! Events: what the log holds.
//!
//! Guarantees that an [`Event`] can be stored as it is: ids are FHIR ids, the
//! value is in its vital's unit and range, times are whole microseconds. Does
//! not guarantee that it is new: the log decides that when it appends.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::trace::TraceContext;
use crate::vital::Vital;

/// The type of a measurement; every other type names something that happened.
pub const READING: &str = "reading";
/// What a reading that came too late to page anybody would have raised.
pub const ALERT_MISSED: &str = "ALERT_MISSED";
/// A correction took the ground of an alert away.
pub const ALERT_RETRACTED: &str = "ALERT_RETRACTED";
/// A correction put an alert that stands on another reading.
pub const ALERT_CORRECTED: &str = "ALERT_CORRECTED";
/// What a rule on trial would have raised; it pages nobody.
pub const ALERT_SHADOWED: &str = "alert_shadowed";
/// A person wants an alert cleared; the rules do it.
pub const ALERT_CLEAR_REQUESTED: &str = "alert_clear_requested";
/// A tenant's rule was made, changed or retired.
pub const RULE_CHANGED: &str = "rule_changed";
/// A patient was registered or their record changed.
pub const PATIENT_REGISTERED: &str = "patient_registered";
/// A person answered an alert.
pub const ALERT_ACKNOWLEDGED: &str = "alert_acknowledged";
/// A token, or all of a subject, is no longer taken.
pub const TOKEN_REVOKED: &str = "token_revoked";
/// An API key was made, by whom and for what.
pub const API_KEY_MADE: &str = "api_key_made";
/// Whose tokens a [`TOKEN_REVOKED`] event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// All that a subject has by then.
    Subject(String),
    /// One token, by its `jti`.
    Token(String),
}

/// Somebody read or changed something, was refused, or signed in.
pub const ACCESS: &str = "access";
/// What the streams of a tenant's accesses begin with; whose data it was follows, where a
/// patient was named. Not a FHIR id, so that no patient can have one, and apart from the
/// patient's own stream, which is read for each of their alarms.
pub const ACCESSES_OF: &str = "_access/";

/// A reading was entered in error: it stays in the log, and is no longer used.
pub const READING_RETRACTED: &str = "reading_retracted";
/// The log goes on from an earlier place, or elsewhere: a new incarnation has begun.
pub const LOG_RESTORED: &str = "log_restored";
/// A webhook endpoint was disabled, with the reason.
pub const ENDPOINT_DISABLED: &str = "ENDPOINT_DISABLED";
/// A webhook endpoint does not take what it is sent; others are told in its place.
pub const ENDPOINT_UNREACHABLE: &str = "ENDPOINT_UNREACHABLE";
/// It does again.
pub const ENDPOINT_REACHABLE: &str = "ENDPOINT_REACHABLE";

/// The stream of a tenant's events that belong to no patient. Not a FHIR id, so
/// that no patient can have it.
pub const NO_PATIENT: &str = "_tenant";

/// Who owns what is said of the log itself. Not a FHIR id, so that no tenant can be it.
pub const NO_TENANT: &str = "_log";

/// The longest a FHIR id may be.
pub const ID_BYTES_MAX: usize = 64;

/// What an id is, for whoever has to write another one.
pub const ID_RULE: &str = "must match [A-Za-z0-9\\-.]{1,64}, and not be . or ..";

/// Whether `id` is a FHIR id: `[A-Za-z0-9\-.]{1,64}`. Except `.` and `..`: FHIR
/// allows them, but in a URL they name another path.
pub fn is_fhir_id(id: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len())
        && ![".", ".."].contains(&id)
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

/// Something that happened, ready to be appended.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Who owns it; nothing crosses this border.
    pub tenant: Arc<str>,
    /// Whom it is about, or [`NO_PATIENT`].
    pub patient_id: String,
    /// [`READING`], or the name of what happened (`HIGH_HEART_RATE`).
    pub kind: String,
    /// Of a reading.
    pub vital: Option<Vital>,
    /// Of a reading, in the vital's canonical unit.
    pub value: Option<f64>,
    /// The device's own opinion of the signal, 0–1.
    pub quality: Option<f32>,
    /// Implausible for a living patient: kept, never the ground of an alert.
    pub suspect: bool,
    /// When it was true, by the source's clock.
    pub occurred_at: DateTime<Utc>,
    /// The device, rule or user that says so.
    pub source_id: String,
    /// Everything else, as JSON text. Kept to the letter: it is part of the chain.
    pub data: Option<String>,
}

/// An event of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The shard that its patient lives in.
    pub shard: i16,
    /// Its place in the shard's order, which is commit order.
    pub position: i64,
    /// When we learned it; never decreases along a shard.
    pub recorded_at: DateTime<Utc>,
    /// What happened.
    pub event: Event,
}

/// What an alert event says. Version 2 of its schema; older ones are read as this one
/// (`event_data` of `migrations/0002_append.sql`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertData {
    /// The schema's version.
    pub v: u8,
    /// The same over raised and cleared.
    pub alert_id: Uuid,
    /// What became of the alert.
    pub state: AlertEventKind,
    /// The rule that says so, and its version.
    pub rule: String,
    /// See `rule`.
    pub rule_version: u32,
    /// The event name of the rule. The same as the event's type, but for
    /// [`ALERT_MISSED`], where it is what would have been raised.
    pub event: String,
    /// high, medium, low or technical.
    pub priority: Priority,
    /// The vital that was judged.
    pub vital: Vital,
    /// Its value, in the canonical unit.
    #[serde(serialize_with = "as_people_write")]
    pub value: f64,
    /// The canonical unit.
    pub unit: String,
    /// When it was measured.
    pub measured_at: DateTime<Utc>,
    /// What measured it.
    pub device_id: String,
    /// The position of that reading in the patient's shard.
    pub reading_position: i64,
    /// When the alert was raised; equal to `measured_at` in the raising event.
    pub since: DateTime<Utc>,
    /// Of what is said more than once of an alert (escalations, repeats): which one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<u32>,
    /// Who cleared it, if a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The device that had raised it and fell silent, if another one cleared it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_device: Option<String>,
    /// The silence that holds it back: nobody is paged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silenced_by: Option<Uuid>,
    /// What the rule knew when it said so, for the alert to explain itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<Because>,
    /// The trace of the request that brought it about, if it is recorded: the context in which
    /// the rules said so. Nothing is decided by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What came with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

/// Why an alert was raised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Because {
    /// The comparison, if the rule is one: `>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// Its number, which may be the patient's own.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "some_as_people_write"
    )]
    pub limit: Option<f64>,
    /// The number is the patient's own and not the rule's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_limit: bool,
    /// Since when the condition has held.
    pub held_since: DateTime<Utc>,
    /// How many readings have said so.
    pub samples: u32,
    /// When the reading was measured whose retraction brought this about, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retracted: Option<DateTime<Utc>>,
    /// NEWS2, if it is about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub news2: Option<u32>,
}

/// What a [`READING_RETRACTED`] event says. It lies at the reading's own time, so that
/// whoever reads a stretch of time finds it there, and has no vital of its own: it is
/// no reading. Who says so is its source. Version 1 of its schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetractionData {
    /// The schema's version.
    pub v: u8,
    /// The reading, by its natural key.
    pub vital: Vital,
    /// See `vital`.
    pub device_id: String,
    /// See `vital`.
    pub measured_at: DateTime<Utc>,
    /// The same reading by its position in the patient's shard.
    pub reading_position: i64,
    /// Why, in the words of who says so.
    pub reason: String,
    /// The reassignment of the device that took it away from this patient, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reassignment: Option<Uuid>,
    /// Another one of this vital, patient and reassignment comes with it: the rules judge
    /// again when they have read the last of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// The largest whole number below which every whole number is a float of its own.
pub const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// A value in JSON as people write it: 130 and not 130.0.
pub fn number(value: f64) -> serde_json::Value {
    if value.fract() == 0.0 && value.abs() < WHOLE_MAX {
        return (value as i64).into();
    }
    value.into()
}

/// [`number`] for serde's derives.
pub fn as_people_write<S: serde::Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    number(*value).serialize(to)
}

/// [`as_people_write`] for what may be left out.
pub fn some_as_people_write<S: serde::Serializer>(
    value: &Option<f64>,
    to: S,
) -> Result<S::Ok, S::Error> {
    value.map(number).serialize(to)
}

/// What one event of an alert reports. How the alert stands now is another type, in `query`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum AlertEventKind {
    Raised,
    Cleared,
    Missed,
    Escalated,
    ReAlarmed,
    Retracted,
    Corrected,
}

impl AlertEventKind {
    /// As on the wire.
    pub fn name(self) -> &'static str {
        match self {
            AlertEventKind::Raised => "raised",
            AlertEventKind::Cleared => "cleared",
            AlertEventKind::Missed => "missed",
            AlertEventKind::Escalated => "escalated",
            AlertEventKind::ReAlarmed => "re_alarmed",
            AlertEventKind::Retracted => "retracted",
            AlertEventKind::Corrected => "corrected",
        }
    }
}

/// IEC 60601-1-8 priorities, and technical alarms apart from physiological ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Priority {
    High,
    Medium,
    Low,
    Technical,
}

/// A text that is no priority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no priority of an alert")]
pub struct UnknownPriority(pub String);

impl TryFrom<String> for Priority {
    type Error = UnknownPriority;

    fn try_from(name: String) -> Result<Priority, UnknownPriority> {
        let all = [Priority::High, Priority::Medium, Priority::Low, Priority::Technical];
        all.into_iter().find(|priority| priority.name() == name).ok_or(UnknownPriority(name))
    }
}

impl Priority {
    /// As on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Priority::High => "high",
            Priority::Medium => "medium",
            Priority::Low => "low",
            Priority::Technical => "technical",
        }
    }
}

/// A measurement, as a reading has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// What was measured.
    pub vital: Vital,
    /// In the vital's canonical unit.
    pub value: f64,
    /// The device's own opinion of the signal, 0–1.
    pub quality: Option<f32>,
    /// Implausible for a living patient.
    pub suspect: bool,
}

impl AlertData {
    /// The trace that it belongs to.
    pub fn trace(&self) -> Option<TraceContext> {
        TraceContext::read(self.traceparent.as_deref()?, self.tracestate.as_deref())
    }
}

impl Event {
    /// A reading of a patient, by a device; `context` is JSON text.
    pub fn reading(
        (tenant, patient_id): (impl Into<Arc<str>>, impl Into<String>),
        measured: Measurement,
        device_id: impl Into<String>,
        occurred_at: DateTime<Utc>,
        context: Option<String>,
    ) -> Event {
        Event {
            vital: Some(measured.vital),
            value: Some(measured.value),
            quality: measured.quality,
            suspect: measured.suspect,
            data: context,
            ..Event::bare(READING, (tenant, patient_id), device_id, occurred_at)
        }
    }

    /// What is no reading: it was said of a patient, or of nobody ([`NO_PATIENT`]), by a rule,
    /// a user or the platform; `data` is JSON text.
    pub fn non_reading(
        kind: impl Into<String>,
        stream: (impl Into<Arc<str>>, impl Into<String>),
        by: impl Into<String>,
        occurred_at: DateTime<Utc>,
        data: impl Into<String>,
    ) -> Event {
        Event { data: Some(data.into()), ..Event::bare(kind, stream, by, occurred_at) }
    }

    fn bare(
        kind: impl Into<String>,
        (tenant, patient_id): (impl Into<Arc<str>>, impl Into<String>),
        source_id: impl Into<String>,
        occurred_at: DateTime<Utc>,
    ) -> Event {
        Event {
            tenant: tenant.into(),
            patient_id: patient_id.into(),
            kind: kind.into(),
            vital: None,
            value: None,
            quality: None,
            suspect: false,
            occurred_at,
            source_id: source_id.into(),
            data: None,
        }
    }

    /// The alert that this event is about, if it is an alert event.
    ///
    /// `None` also for other types; an error only for data that is broken.
    pub fn alert(&self) -> Result<Option<AlertData>, serde_json::Error> {
        match &self.data {
            Some(data) if self.is_alert() => serde_json::from_str(data).map(Some),
            _ => Ok(None),
        }
    }

    /// The same event, if it is an alert event, with the trace that it belongs to.
    pub fn in_trace(&mut self, context: &TraceContext) -> Result<(), serde_json::Error> {
        if let Some(alert) = self.alert()? {
            let (traceparent, tracestate) = (Some(context.traceparent()), context.tracestate());
            let alert = AlertData { traceparent, tracestate, ..alert };
            self.data = Some(serde_json::to_string(&alert)?);
        }
        Ok(())
    }

    /// Alert events carry upper-case names; everything else is lower-case, and
    /// what concerns no patient concerns no alert.
    pub fn is_alert(&self) -> bool {
        self.patient_id != NO_PATIENT && self.kind.starts_with(|c: char| c.is_ascii_uppercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_reads_as_what_it_was_written_and_another_is_an_error() {
        for priority in [Priority::High, Priority::Medium, Priority::Low, Priority::Technical] {
            assert_eq!(Priority::try_from(priority.name().to_owned()), Ok(priority));
        }
        assert!(Priority::try_from("urgent".to_owned()).is_err());
    }

    #[test]
    fn fhir_ids_are_told_from_others() {
        for good in ["1", "101", "a-b.C", "...", ".1", &"x".repeat(64)] {
            assert!(is_fhir_id(good), "{good}");
        }
        for bad in ["", "a b", "a/b", "ä", "a_b", NO_PATIENT, ".", "..", &"x".repeat(65)] {
            assert!(!is_fhir_id(bad), "{bad}");
        }
    }
}
