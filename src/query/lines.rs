//! A patient's events as lines of JSON, for those who want a million of them.
//!
//! Guarantees what a stream says of the same events. Holds one line.

use std::borrow::Cow;
use std::io;

use super::export::ExportRow;
use crate::wire::StreamEvent;

/// Writes one patient's events.
pub struct NdjsonWriter {
    shard: i16,
    tenant: String,
    patient_id: String,
    line: Vec<u8>,
}

impl NdjsonWriter {
    /// Of this patient.
    pub fn new(shard: i16, tenant: &str, patient_id: &str) -> NdjsonWriter {
        let (tenant, patient_id) = (tenant.to_owned(), patient_id.to_owned());
        NdjsonWriter { shard, tenant, patient_id, line: Vec::with_capacity(512) }
    }

    /// The line of an event, with its end; empty for what is not for outside.
    pub fn line(&mut self, row: &ExportRow<'_>) -> io::Result<&[u8]> {
        match self.event(row)? {
            Some(_) => self.line.push(b'\n'),
            None => self.line.clear(),
        }
        Ok(&self.line)
    }

    /// The same, with its name in a stream and whose it is.
    pub fn event<'a>(&'a mut self, row: &ExportRow<'a>) -> io::Result<Option<NamedLine<'a>>> {
        self.line.clear();
        let (name, device_id);
        if let Some(reading) = row.reading(&self.patient_id) {
            let event = StreamEvent::reading(reading);
            serde_json::to_writer(&mut self.line, &event)?;
            (name, device_id) = (event.name(), Cow::Borrowed(row.source_id));
        } else {
            let recorded = row.to_recorded(self.shard, &self.tenant, &self.patient_id);
            let Some(event) = StreamEvent::of(&recorded)? else { return Ok(None) };
            serde_json::to_writer(&mut self.line, &event)?;
            (name, device_id) = (event.name(), Cow::Owned(event.device_id().to_owned()));
        }
        let text = std::str::from_utf8(&self.line).map_err(io::Error::other)?;
        Ok(Some(NamedLine { name, device_id, text }))
    }
}

/// An event in a stream.
pub struct NamedLine<'a> {
    /// Its name there.
    pub name: &'static str,
    /// The device that it is of; empty where it is of none.
    pub device_id: Cow<'a, str>,
    /// JSON.
    pub text: &'a str,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::READING;
    use crate::vital::Vital;

    proptest! {
        #[test]
        fn a_line_is_what_a_stream_says_of_the_same_event(
            occurred_at in 0_i64..253_402_300_800_000_000,
            recorded_at in 1_000_000_000_000_000_i64..4_000_000_000_000_000,
            which in 0_usize..12,
            value in prop_oneof![0.0..2000.0_f64, (0_i32..2000).prop_map(f64::from), Just(1e-7)],
            suspect in any::<bool>(),
            source_id in "[A-Za-z0-9.\\-]{1,20}|[ -~]{1,9}",
            quality in proptest::option::of(prop_oneof![0.0..1.0_f32, Just(0.9), Just(1.0)]),
            context in any::<bool>(),
        ) {
            let row = ExportRow {
                position: 1,
                recorded_at,
                occurred_at,
                kind: READING,
                vital: Vital::all().nth(which),
                value: Some(value),
                quality,
                suspect,
                source_id: &source_id,
                data: context.then_some(r#"{"activity":"walking"}"#),
            };
            let recorded = row.to_recorded(0, "t", "p.1");
            let event = serde_json::to_string(&StreamEvent::of(&recorded).unwrap()).unwrap();
            let mut lines = NdjsonWriter::new(0, "t", "p.1");
            let line = String::from_utf8(lines.line(&row).unwrap().to_vec()).unwrap();
            prop_assert_eq!(line, format!("{event}\n"));
        }
    }
}
