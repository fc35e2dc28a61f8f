//! A line of NDJSON: a reading of the API, or a line that the platform itself has given out.
//!
//! Guarantees that a history's table and `vitals replay` can be read again: readings with
//! all that their log held of them, retractions, and the name of whatever else happened,
//! which is skipped because the rules say it anew; and that what is wrong with a reading has
//! the code that it has at `POST /readings`. Keys that it does not know it ignores.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::fields::{RowFault, needed, number, start_of, time};
use crate::event::READING_RETRACTED;
use crate::intake::file::contents::{FileReading, FileRetraction, FileRow};
use crate::intake::parse::fault_of_line;
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
pub fn row(line: &[u8], number: u64) -> Result<FileRow, RowFault> {
    let said = std::str::from_utf8(line).ok().and_then(|text| {
        // An array of the right length would pass for an object.
        let is_array = text.trim_ascii_start().starts_with('[');
        serde_json::from_str::<JsonLine<'_>>(text).ok().filter(|_| !is_array)
    });
    let Some(said) = said else { return Err(fault(line)) };
    match said.kind.as_deref() {
        Some(READING_RETRACTED) => return retraction(said, number),
        Some(kind) if said.alert_id.is_some() => return Ok(FileRow::Skipped(start_of(kind))),
        // Another's type is a key like others that are not known.
        None | Some(_) => {}
    }
    reading(said, number).map(FileRow::Reading).ok_or_else(|| fault(line))
}

/// What is wrong with a line that should be a reading, as `POST /readings` says it.
fn fault(line: &[u8]) -> RowFault {
    match fault_of_line(line) {
        Some(fault) => RowFault::new(fault.code, fault.detail),
        None => {
            RowFault::new("invalid_reading", "send one reading a line, as an object".to_owned())
        }
    }
}

fn reading(said: JsonLine<'_>, line: u64) -> Option<FileReading> {
    Some(FileReading {
        patient_id: said.patient_id?,
        device_id: said.device_id?,
        vital: said.vital?,
        value: number(said.value?.get()).ok()?,
        unit: said.unit,
        quality: said.device_quality.or(said.quality.and_then(Quality::own)),
        measured_at: time(&said.measured_at?).ok()?,
        context: said.context.map(|json| json.get().to_owned()),
        line,
    })
}

fn retraction(said: JsonLine<'_>, line: u64) -> Result<FileRow, RowFault> {
    Ok(FileRow::Retraction(FileRetraction {
        patient_id: needed(said.patient_id, "patientId")?,
        device_id: needed(said.device_id, "deviceId")?,
        vital: needed(said.vital, "vital")?,
        measured_at: time(&needed(said.measured_at, "measuredAt")?)?,
        reason: needed(said.reason, "reason")?,
        by: needed(said.by, "by")?,
        line,
    }))
}
