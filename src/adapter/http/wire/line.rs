//! Events as lines of JSON, written by hand for those who want a million of them.
//!
//! Guarantees the same bytes as [`super::event`]: a test compares them. Only a context, which
//! the one parses, is here to the letter, so that what is read again is the same. Holds one
//! line.

use std::borrow::Cow;
use std::io::Write;

use chrono::{DateTime, Datelike, Timelike, Utc};

use super::event;
use crate::event::{READING, WHOLE_MAX};
use crate::query::export::Row;
use crate::vital::Vital;

/// Writes one patient's events.
pub struct Lines {
    shard: i16,
    tenant: String,
    patient_id: String,
    measured: Stamp,
    recorded: Stamp,
    line: Vec<u8>,
}

impl Lines {
    /// Of this patient.
    pub fn new(shard: i16, tenant: &str, patient_id: &str) -> Lines {
        Lines {
            shard,
            tenant: tenant.to_owned(),
            patient_id: patient_id.to_owned(),
            measured: Stamp::default(),
            recorded: Stamp::default(),
            line: Vec::with_capacity(512),
        }
    }

    /// The line of an event, with its end; empty for what is not for outside.
    pub fn line(&mut self, row: &Row<'_>) -> std::io::Result<&[u8]> {
        self.line.clear();
        match (row.vital, row.value) {
            (Some(vital), Some(value)) if row.kind == READING => {
                self.reading(row, vital, value)?;
            }
            _ => {
                let recorded = row.to_recorded(self.shard, &self.tenant, &self.patient_id);
                if let Some((_, body)) = event(&recorded) {
                    serde_json::to_writer(&mut self.line, &body)?;
                    self.line.push(b'\n');
                }
            }
        }
        Ok(&self.line)
    }

    fn reading(&mut self, row: &Row<'_>, vital: Vital, value: f64) -> std::io::Result<()> {
        let to = &mut self.line;
        to.extend(br#"{"type":"reading","patientId":"#);
        text(to, &self.patient_id)?;
        to.extend(br#","deviceId":"#);
        text(to, row.source_id)?;
        to.extend(br#","vital":""#);
        to.extend(vital.name().as_bytes());
        to.extend(br#"","value":"#);
        number(to, value)?;
        to.extend(br#","unit":""#);
        to.extend(vital.unit().as_bytes());
        to.extend(br#"","quality":""#);
        to.extend(super::quality(row.suspect).as_bytes());
        to.extend(br#"","measuredAt":""#);
        to.extend(self.measured.of(row.occurred_at));
        to.extend(br#"","recordedAt":""#);
        to.extend(self.recorded.of(row.recorded_at));
        to.push(b'"');
        if let Some(quality) = row.quality {
            write!(to, ",\"deviceQuality\":{}", super::opinion(quality))?;
        }
        if let Some(context) = row.data {
            write!(to, ",\"context\":{}", one_line(context))?;
        }
        to.extend(b"}\n");
        Ok(())
    }
}

/// A context on one line: within the texts of JSON there is no line break, only around them.
pub fn one_line(json: &str) -> Cow<'_, str> {
    match json.contains(['\n', '\r']) {
        true => json.replace(['\n', '\r'], " ").into(),
        false => json.into(),
    }
}

/// Ids hardly ever need more than quotes.
fn text(to: &mut Vec<u8>, text: &str) -> std::io::Result<()> {
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.') {
        to.push(b'"');
        to.extend(text.as_bytes());
        to.push(b'"');
        return Ok(());
    }
    Ok(serde_json::to_writer(to, text)?)
}

fn number(to: &mut Vec<u8>, value: f64) -> std::io::Result<()> {
    if value.fract() == 0.0 && value.abs() < WHOLE_MAX {
        return write!(to, "{}", value as i64);
    }
    Ok(serde_json::to_writer(to, &value)?)
}

/// A time as [`crate::clock::rfc3339`] writes it. The minute is kept: the next event is
/// often of the same.
#[derive(Default)]
struct Stamp {
    minute: Option<i64>,
    /// The last time as text; its first 17 bytes are the minute's.
    text: Vec<u8>,
}

const MINUTE_MICROS: i64 = 60_000_000;
const MINUTE_CHARS: usize = "2026-01-01T00:00:".len();

impl Stamp {
    fn of(&mut self, micros: i64) -> &[u8] {
        let minute = micros.div_euclid(MINUTE_MICROS);
        if self.minute != Some(minute) {
            self.minute = Some(minute);
            let time = DateTime::<Utc>::from_timestamp(minute * 60, 0).unwrap_or_default();
            self.text.clear();
            four(&mut self.text, time.year());
            for (before, part) in [
                (b'-', time.month()),
                (b'-', time.day()),
                (b'T', time.hour()),
                (b':', time.minute()),
            ] {
                self.text.push(before);
                two(&mut self.text, part);
            }
            self.text.push(b':');
        }
        self.text.truncate(MINUTE_CHARS);
        let within = micros.rem_euclid(MINUTE_MICROS);
        let (second, fraction) = (within / 1_000_000, within % 1_000_000);
        two(&mut self.text, second as u32);
        let (fraction, digits) = match fraction {
            0 => (0, 0),
            whole if whole % 1_000 == 0 => (whole / 1_000, 3),
            all => (all, 6),
        };
        if digits > 0 {
            self.text.push(b'.');
            let mut unit = 10_i64.pow(digits - 1);
            while unit > 0 {
                self.text.push(b'0' + (fraction / unit % 10) as u8);
                unit /= 10;
            }
        }
        self.text.push(b'Z');
        &self.text
    }
}

fn two(to: &mut Vec<u8>, n: u32) {
    to.extend([b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8]);
}

fn four(to: &mut Vec<u8>, year: i32) {
    let year = year.unsigned_abs();
    two(to, year / 100);
    two(to, year % 100);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_line_is_what_the_api_says_of_the_same_event(
            occurred_at in 0_i64..253_402_300_800_000_000,
            recorded_at in 1_000_000_000_000_000_i64..4_000_000_000_000_000,
            coarse in 0_usize..3,
            which in 0_usize..12,
            value in prop_oneof![0.0..2000.0_f64, (0_i32..2000).prop_map(f64::from), Just(0.1), Just(1e-7)],
            suspect in any::<bool>(),
            source_id in "[A-Za-z0-9.\\-]{1,20}|[ -~]{1,9}",
            quality in proptest::option::of(prop_oneof![0.0..1.0_f32, Just(0.9), Just(1.0)]),
            context in any::<bool>(),
        ) {
            let unit = [1, 1_000, 1_000_000][coarse];
            let mut lines = Lines::new(0, "t", "p.1");
            // The next one too, which may be of the same minute.
            for step in [0, 999_999, 60_000_000] {
                let row = Row {
                    position: 1,
                    recorded_at: recorded_at + step,
                    occurred_at: (occurred_at / unit * unit + step).min(253_402_300_799_999_999),
                    kind: READING,
                    vital: Vital::all().nth(which),
                    value: Some(value),
                    quality,
                    suspect,
                    source_id: &source_id,
                    data: context.then_some(r#"{"activity":"walking"}"#),
                };
                let (_, body) = event(&row.to_recorded(0, "t", "p.1")).unwrap();
                let line = String::from_utf8(lines.line(&row).unwrap().to_vec()).unwrap();
                prop_assert_eq!(line, format!("{body}\n"));
            }
        }
    }
}
