//! A line of NDJSON: a reading of the API, or a line that the platform itself has given out.
//!
//! Guarantees that a history's table and `vitals replay` can be read again: readings with
//! all that their log held of them, retractions, and the name of whatever else happened,
//! which is skipped because the rules say it anew. Keys that it does not know it ignores.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::{Fault, needed, not_a_number, not_utf8, number, start_of, time};
use crate::event::READING_RETRACTED;
use crate::intake::file::{FileReading, FileRetraction, Row};
use crate::intake::quality::Quality;

/// The wire form; the value is kept as text, to tell a number from a string of one and to
/// read it to the last bit.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonLine<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    patient_id: Option<String>,
    device_id: Option<String>,
    vital: Option<String>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    unit: Option<String>,
    quality: Option<Quality>,
    device_quality: Option<f64>,
    measured_at: Option<String>,
    #[serde(borrow)]
    context: Option<&'a RawValue>,
    reason: Option<String>,
    by: Option<String>,
    /// Of what the rules have said, and of answers to it.
    alert_id: Option<IgnoredAny>,
}

/// Reads a line.
pub fn row(text: &[u8], line: u64) -> Result<Row, Fault> {
    let text = std::str::from_utf8(text).map_err(|_| not_utf8())?;
    // An array of the right length would pass for an object.
    if text.trim_ascii_start().starts_with('[') && serde_json::from_str::<&RawValue>(text).is_ok() {
        let detail = "an array: send one reading a line, as an object".to_owned();
        return Err(Fault::new("invalid_reading", detail));
    }
    let said: JsonLine<'_> = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    match said.kind.as_deref() {
        Some(READING_RETRACTED) => return retraction(said, line),
        Some(kind) if said.alert_id.is_some() => return Ok(Row::Skipped(start_of(kind))),
        // Another's type is a key like others that are not known.
        None | Some(_) => {}
    }
    let value = needed(said.value, "value")?.get();
    let is_text = value.starts_with(['"', '[', '{', 't', 'f', 'n']);
    let value = if is_text { Err(not_a_number(value)) } else { number(value) }?;
    Ok(Row::Reading(FileReading {
        patient_id: needed(said.patient_id, "patientId")?,
        device_id: needed(said.device_id, "deviceId")?,
        vital: needed(said.vital, "vital")?,
        value,
        unit: said.unit,
        quality: said.device_quality.or(said.quality.and_then(Quality::own)),
        measured_at: time(&needed(said.measured_at, "measuredAt")?)?,
        context: said.context.map(|json| json.get().to_owned()),
        line,
    }))
}

fn retraction(said: JsonLine<'_>, line: u64) -> Result<Row, Fault> {
    Ok(Row::Retraction(FileRetraction {
        patient_id: needed(said.patient_id, "patientId")?,
        device_id: needed(said.device_id, "deviceId")?,
        vital: needed(said.vital, "vital")?,
        measured_at: time(&needed(said.measured_at, "measuredAt")?)?,
        reason: needed(said.reason, "reason")?,
        by: needed(said.by, "by")?,
        line,
    }))
}

fn unreadable(error: &serde_json::Error) -> Fault {
    // serde_json counts lines from the start of what it was given: always line 1.
    let column = error.column();
    let message = error.to_string();
    let what = start_of(message.split(" at line ").next().unwrap_or_default());
    if error.is_data() {
        let detail = format!("{what} (column {column}): send one reading a line");
        return Fault::new("invalid_reading", detail);
    }
    Fault::new("not_json", format!("{what} (column {column}): send one JSON object a line"))
}
