//! Which readings may be stored.
//!
//! Guarantees that what [`accept`] lets through can be appended as it is, whatever it came
//! by; but for one that names no patient, whom [`assign`] finds first. Does not know who may send what: it is told the narrowing of their token.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::auth::Narrowing;
use crate::clock::truncate_to_micros;
use crate::devices::Device;
use crate::event::{Event, ID_RULE, Measurement, is_fhir_id};
use crate::log::Archived;
use crate::vital::{MeasureError, Vital};
pub use crate::wire::Rejected;

/// How far the device's clock may be ahead of ours.
pub const AHEAD_SECONDS_MAX: i64 = 300;
/// The largest `context`.
pub const CONTEXT_BYTES_MAX: usize = 4_096;

/// In the place of a patient who is still to be found. No id is empty.
pub(super) const UNASSIGNED: &str = "";

/// A reading whose time is known, whatever it was written in.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names are those of the contract")]
pub struct Draft<'a> {
    /// Left out by a device's token: whom the device is assigned to.
    pub patient_id: Option<&'a str>,
    pub device_id: &'a str,
    pub vital: &'a str,
    pub value: f64,
    pub unit: Option<&'a str>,
    pub measured_at: DateTime<Utc>,
    pub quality: Option<f64>,
    /// JSON text.
    pub context: Option<&'a str>,
}

/// What is wrong with an item, not yet where the item is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadingFault {
    /// Stable.
    pub code: &'static str,
    /// The key that is meant; empty for the whole item.
    pub field: &'static str,
    /// For a person, with the mend.
    pub detail: String,
}

impl ReadingFault {
    /// What is wrong, and with which key.
    pub fn new(code: &'static str, field: &'static str, detail: impl Into<String>) -> ReadingFault {
        ReadingFault { code, field, detail: detail.into() }
    }

    /// Gives it its place in the request.
    pub fn at(self, index: usize, in_array: bool) -> Rejected {
        let item = if in_array { format!("/{index}") } else { String::new() };
        let field = if self.field.is_empty() { String::new() } else { format!("/{}", self.field) };
        Rejected { index, code: self.code, detail: self.detail, pointer: item + &field }
    }
}

/// Judges a reading.
pub(super) fn accept(
    raw: Draft<'_>,
    tenant: &Arc<str>,
    narrowing: Narrowing<'_>,
    now: DateTime<Utc>,
    archived: &Archived,
) -> Result<Event, ReadingFault> {
    if raw.patient_id.is_none() && narrowing.device.is_none() {
        let detail = "patientId is missing: only the token of a device may leave it out";
        return Err(ReadingFault::new("missing_field", "patientId", detail));
    }
    for (field, id, only) in [
        ("patientId", raw.patient_id, narrowing.patient),
        ("deviceId", Some(raw.device_id), narrowing.device),
    ] {
        let Some(id) = id else { continue };
        if !is_fhir_id(id) {
            let detail = format!("{field} {ID_RULE}");
            return Err(ReadingFault::new("invalid_id", field, detail));
        }
        if only.is_some_and(|only| only != id) {
            let detail = format!("this token may not write for this {field}");
            return Err(ReadingFault::new("outside_token", field, detail));
        }
    }
    let vital: Vital = raw.vital.parse().map_err(|e: crate::vital::UnknownVital| {
        ReadingFault::new("unknown_vital", "vital", e.to_string())
    })?;
    let measured = vital.measure(raw.value, raw.unit).map_err(|error| match error {
        MeasureError::Unit { .. } => {
            ReadingFault::new("unit_not_accepted", "unit", error.to_string())
        }
        MeasureError::Range { .. } | MeasureError::NotAcvpu { .. } => {
            ReadingFault::new("value_out_of_range", "value", error.to_string())
        }
    })?;
    let quality = quality(raw.quality)?;
    let at = judge_time(raw.measured_at, now, archived)?;
    let context = raw.context.map(context).transpose()?;
    let measured = Measurement { vital, value: measured.value, quality, suspect: measured.suspect };
    let patient_id = raw.patient_id.unwrap_or(UNASSIGNED);
    Ok(Event::reading((tenant.clone(), patient_id), measured, raw.device_id, at, context))
}

/// Finds out whom a reading is of that named no patient.
pub(super) fn assign(
    event: &mut Event,
    device: Option<&Device>,
    narrowing: Narrowing<'_>,
) -> Result<(), ReadingFault> {
    let at = event.occurred_at;
    let Some(patient_id) = device.and_then(|device| device.patient_at(at)) else {
        let detail = format!(
            "the device {} was assigned to nobody at {}: assign it, and send again",
            event.source_id,
            crate::clock::rfc3339(at)
        );
        return Err(ReadingFault::new("device_unassigned", "deviceId", detail));
    };
    if narrowing.patient.is_some_and(|only| only != patient_id) {
        let detail = "the device was not at the patient whom this token may write for";
        return Err(ReadingFault::new("outside_token", "deviceId", detail));
    }
    event.patient_id = patient_id.to_owned();
    Ok(())
}

fn quality(quality: Option<f64>) -> Result<Option<f32>, ReadingFault> {
    match quality {
        Some(q) if !(0.0..=1.0).contains(&q) => Err(ReadingFault::new(
            "quality_out_of_range",
            "quality",
            format!("quality is {q}, it must lie within 0 and 1"),
        )),
        q => Ok(q.map(|q| q as f32)),
    }
}

fn judge_time(
    time: DateTime<Utc>,
    now: DateTime<Utc>,
    archived: &Archived,
) -> Result<DateTime<Utc>, ReadingFault> {
    let fault = |code, detail| Err(ReadingFault::new(code, "measuredAt", detail));
    let time = truncate_to_micros(time);
    if time > now + TimeDelta::seconds(AHEAD_SECONDS_MAX) {
        let now = crate::clock::rfc3339(now);
        let detail = format!(
            "measured more than {AHEAD_SECONDS_MAX} s after the server's {now}: set the device's clock"
        );
        return fault("measured_in_future", detail);
    }
    if time < DateTime::UNIX_EPOCH {
        return fault(
            "measured_too_early",
            "measured before 1970: set the device's clock".to_owned(),
        );
    }
    // Whether it was stored before it was archived is not known here, so it is neither
    // stored nor a duplicate.
    if let Some(span) = archived.at(time) {
        let detail = format!(
            "{span} is archived and takes no readings: have it brought back with vitals import \
             --format parquet {}, and send again",
            span.file_name()
        );
        return fault("month_archived", detail);
    }
    Ok(time)
}

fn context(text: &str) -> Result<String, ReadingFault> {
    if !text.starts_with('{') {
        return Err(ReadingFault::new(
            "context_not_an_object",
            "context",
            "context must be a JSON object",
        ));
    }
    if text.len() > CONTEXT_BYTES_MAX {
        let detail = format!("context has {} bytes, {CONTEXT_BYTES_MAX} at most", text.len());
        return Err(ReadingFault::new("context_too_large", "context", detail));
    }
    // RawValue has only looked at the brackets: what is stored must be readable.
    if let Err(error) = serde_json::from_str::<serde_json::Value>(text) {
        return Err(ReadingFault::new("invalid_context", "context", format!("context: {error}")));
    }
    Ok(text.to_owned())
}
