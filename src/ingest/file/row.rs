//! One line of a recorded file: what it says, or what is wrong with it.
//!
//! Guarantees that only what makes a line unreadable is a fault, with a stable code
//! and a mend. Does not judge readings.

use chrono::{DateTime, TimeDelta, Utc};
use csv_core::{Reader, ReaderBuilder, Terminator};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{FileReading, Format, Row};
use crate::vital::Vital;

/// How much of a value or a header an error repeats, in characters.
const QUOTED_CHARS_MAX: usize = 120;

const ICU_HEADER: [&str; 4] = ["record_id", "minute", "parameter", "value"];
const CSV_HEADER: [&str; 6] = ["patientId", "deviceId", "vital", "value", "unit", "measuredAt"];

/// The parameters of `icu-csv` that are vitals, with the device that measures them.
/// Their values are in canonical units (Temp in Cel). GCS, FiO2 and others are not here.
const ICU_PARAMETERS: [(&str, Vital, &str); 10] = [
    ("HR", Vital::HeartRate, "bedside"),
    ("RespRate", Vital::RespiratoryRate, "bedside"),
    ("Temp", Vital::BodyTemperature, "bedside"),
    ("SaO2", Vital::Spo2, "blood-gas"),
    ("SysABP", Vital::SystolicBp, "arterial-line"),
    ("DiasABP", Vital::DiastolicBp, "arterial-line"),
    ("MAP", Vital::MeanBp, "arterial-line"),
    ("NISysABP", Vital::SystolicBp, "cuff"),
    ("NIDiasABP", Vital::DiastolicBp, "cuff"),
    ("NIMAP", Vital::MeanBp, "cuff"),
];

/// What is wrong with a line.
#[derive(Debug)]
pub struct Fault {
    /// Stable; the codes are listed at [`Row::Bad`].
    pub code: &'static str,
    /// What is wrong and how to mend it.
    pub detail: String,
}

impl Fault {
    /// A fault with its code and its mend.
    pub fn new(code: &'static str, detail: String) -> Fault {
        Fault { code, detail }
    }
}

/// Reads the lines of one format.
pub struct RowParser {
    format: Format,
    epoch: DateTime<Utc>,
    splitter: Splitter,
}

impl RowParser {
    /// `epoch` is minute 0 of `icu-csv`.
    pub fn new(format: Format, epoch: DateTime<Utc>) -> RowParser {
        RowParser { format, epoch, splitter: Splitter::new() }
    }

    /// The first line that the format demands.
    pub fn header(&self) -> Option<String> {
        match self.format {
            Format::IcuCsv => Some(ICU_HEADER.join(",")),
            Format::Csv => Some(CSV_HEADER.join(",")),
            Format::Ndjson => None,
        }
    }

    /// Whether `text` is that line, quoted or not.
    pub fn is_header(&mut self, text: &[u8]) -> bool {
        let columns = &mut self.splitter;
        match self.format {
            Format::IcuCsv => columns.split(text, &ICU_HEADER).is_ok_and(|c| c == ICU_HEADER),
            Format::Csv => columns.split(text, &CSV_HEADER).is_ok_and(|c| c == CSV_HEADER),
            Format::Ndjson => false,
        }
    }

    /// Reads one line after the header; `line` is its number.
    pub fn row(&mut self, text: &[u8], line: u64) -> Result<Row, Fault> {
        match self.format {
            Format::IcuCsv => icu_row(self.splitter.split(text, &ICU_HEADER)?, self.epoch, line),
            Format::Csv => csv_row(self.splitter.split(text, &CSV_HEADER)?, line),
            Format::Ndjson => ndjson_row(text, line),
        }
    }
}

fn icu_row(columns: [&str; 4], epoch: DateTime<Utc>, line: u64) -> Result<Row, Fault> {
    let [patient_id, minute, parameter, value] = columns;
    let Some((_, vital, device)) = ICU_PARAMETERS.iter().find(|(name, ..)| *name == parameter)
    else {
        return Ok(Row::Skipped);
    };
    let measured_at = minute
        .parse()
        .ok()
        .and_then(TimeDelta::try_minutes)
        .and_then(|since| epoch.checked_add_signed(since))
        .ok_or_else(|| {
            let minute = quoted(minute);
            Fault::new(
                "invalid_time",
                format!("{minute} is no whole number of minutes since the epoch"),
            )
        })?;
    Ok(Row::Reading(FileReading {
        patient_id: patient_id.to_owned(),
        device_id: (*device).to_owned(),
        vital: vital.name().to_owned(),
        value: number(value)?,
        unit: None,
        quality: None,
        measured_at,
        context: None,
        line,
    }))
}

fn csv_row(columns: [&str; 6], line: u64) -> Result<Row, Fault> {
    let [patient_id, device_id, vital, value, unit, measured_at] = columns;
    Ok(Row::Reading(FileReading {
        patient_id: patient_id.to_owned(),
        device_id: device_id.to_owned(),
        vital: vital.to_owned(),
        value: number(value)?,
        unit: (!unit.is_empty()).then(|| unit.to_owned()),
        quality: None,
        measured_at: time(measured_at)?,
        context: None,
        line,
    }))
}

/// The wire form; the value is kept as text, to tell a number from a string of one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonReading<'a> {
    patient_id: Option<String>,
    device_id: Option<String>,
    vital: Option<String>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    unit: Option<String>,
    quality: Option<f64>,
    measured_at: Option<String>,
    #[serde(borrow)]
    context: Option<&'a RawValue>,
}

fn ndjson_row(text: &[u8], line: u64) -> Result<Row, Fault> {
    let text = std::str::from_utf8(text).map_err(|_| not_utf8())?;
    let reading: JsonReading = serde_json::from_str(text).map_err(|e| {
        // serde_json counts lines from the start of what it was given: always line 1.
        let column = e.column();
        let message = e.to_string();
        let what = start_of(message.split(" at line ").next().unwrap_or_default());
        if e.is_data() {
            Fault::new(
                "invalid_reading",
                format!("{what} (column {column}): send one reading a line"),
            )
        } else {
            Fault::new("not_json", format!("{what} (column {column}): send one JSON object a line"))
        }
    })?;
    let value = needed(reading.value, "value")?.get();
    // JSON has no spelling for what is not finite, but 1e999 is too large to be a number.
    let value = serde_json::from_str(value).map_err(|_| not_a_number(value))?;
    Ok(Row::Reading(FileReading {
        patient_id: needed(reading.patient_id, "patientId")?,
        device_id: needed(reading.device_id, "deviceId")?,
        vital: needed(reading.vital, "vital")?,
        value,
        unit: reading.unit,
        quality: reading.quality,
        measured_at: time(&needed(reading.measured_at, "measuredAt")?)?,
        context: reading.context.map(|json| json.get().to_owned()),
        line,
    }))
}

fn needed<T>(field: Option<T>, name: &str) -> Result<T, Fault> {
    field.ok_or_else(|| Fault::new("missing_field", format!("\"{name}\" is missing: add it")))
}

fn number(text: &str) -> Result<f64, Fault> {
    // Rust also reads "nan" and "inf", which are no measurements.
    text.parse().ok().filter(|v: &f64| v.is_finite()).ok_or_else(|| not_a_number(text))
}

fn not_a_number(text: &str) -> Fault {
    let text = quoted(text);
    Fault::new("not_a_number", format!("the value {text} is no number: write it like 36.8"))
}

fn time(text: &str) -> Result<DateTime<Utc>, Fault> {
    DateTime::parse_from_rfc3339(text).map(|t| t.to_utc()).map_err(|_| {
        let text = quoted(text);
        Fault::new(
            "invalid_time",
            format!("{text} is no time: write RFC 3339 with a zone, like 2026-01-01T08:30:00Z"),
        )
    })
}

fn not_utf8() -> Fault {
    Fault::new("not_utf8", "the line is not UTF-8: save the file as UTF-8".to_owned())
}

/// A text that is not ours, in quotes and short enough for a message.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", start_of(text))
}

fn start_of(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Takes a comma-separated line apart, in memory that is used again.
struct Splitter {
    reader: Reader,
    fields: Vec<u8>,
    ends: Vec<usize>,
}

impl Splitter {
    fn new() -> Splitter {
        // A carriage return within a line would otherwise end it, and hide what follows.
        let reader = ReaderBuilder::new().terminator(Terminator::Any(b'\n')).build();
        Splitter { reader, fields: Vec::new(), ends: Vec::new() }
    }

    /// The columns of `line`, trimmed; a fault unless there are as many as in `header`.
    fn split<'a, const N: usize>(
        &'a mut self,
        line: &[u8],
        header: &[&str; N],
    ) -> Result<[&'a str; N], Fault> {
        // Unquoting never lengthens a field. One end more than needed shows an extra column.
        self.fields.resize(line.len(), 0);
        self.ends.resize(N + 1, 0);
        self.reader.reset();
        let (_, _, mut written, mut count) =
            self.reader.read_record(line, &mut self.fields, &mut self.ends);
        // An empty input is the end of the line, also within an unclosed quote.
        let (_, _, more, last) =
            self.reader.read_record(&[], &mut self.fields[written..], &mut self.ends[count..]);
        written += more;
        count += last;
        if count != N {
            return Err(Fault::new(
                if count < N { "missing_column" } else { "extra_column" },
                format!(
                    "write these columns: {} (a comma within a field needs quotes)",
                    header.join(",")
                ),
            ));
        }
        let fields = std::str::from_utf8(&self.fields[..written]).map_err(|_| not_utf8())?;
        let mut columns = [""; N];
        let mut start = 0;
        for (column, &end) in columns.iter_mut().zip(&self.ends) {
            // A cut within a character is possible only where a column was no UTF-8.
            *column = fields.get(start..end).ok_or_else(not_utf8)?.trim();
            start = end;
        }
        Ok(columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(format: Format, text: &[u8]) -> Result<Row, Fault> {
        RowParser::new(format, "2026-01-01T00:00:00Z".parse().unwrap()).row(text, 9)
    }

    fn reading(format: Format, text: &str) -> FileReading {
        match row(format, text.as_bytes()) {
            Ok(Row::Reading(reading)) => reading,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[track_caller]
    fn bad(format: Format, text: &[u8], expect: &str, mend: &str) {
        let fault = row(format, text).unwrap_err();
        assert_eq!(fault.code, expect, "{}", fault.detail);
        assert!(fault.detail.contains(mend), "{}", fault.detail);
    }

    #[test]
    fn icu_parameters_become_vitals_of_their_devices() {
        for (parameter, vital, device) in [
            ("HR", "heart_rate", "bedside"),
            ("RespRate", "respiratory_rate", "bedside"),
            ("Temp", "body_temperature", "bedside"),
            ("SaO2", "spo2", "blood-gas"),
            ("SysABP", "systolic_bp", "arterial-line"),
            ("DiasABP", "diastolic_bp", "arterial-line"),
            ("MAP", "mean_bp", "arterial-line"),
            ("NISysABP", "systolic_bp", "cuff"),
            ("NIDiasABP", "diastolic_bp", "cuff"),
            ("NIMAP", "mean_bp", "cuff"),
        ] {
            let got = reading(Format::IcuCsv, &format!("132539,1507,{parameter},-17.8"));
            assert_eq!((got.patient_id.as_str(), got.value, got.line), ("132539", -17.8, 9));
            assert_eq!((got.vital.as_str(), got.device_id.as_str()), (vital, device));
            assert_eq!(got.measured_at.to_rfc3339(), "2026-01-02T01:07:00+00:00");
            assert_eq!((got.unit, got.quality, got.context), (None, None, None));
        }
        // What is no vital is skipped before its value is looked at.
        for skipped in ["1,0,GCS,15", "1,0,FiO2,-", "1,0,Weight,80", "1,0,hr,80", "1,0,,"] {
            assert!(matches!(row(Format::IcuCsv, skipped.as_bytes()), Ok(Row::Skipped)));
        }
        bad(
            Format::IcuCsv,
            b"1,9223372036854775807,HR,80",
            "invalid_time",
            "whole number of minutes",
        );
        bad(Format::IcuCsv, b"1,0.5,HR,80", "invalid_time", "\"0.5\"");
        bad(Format::IcuCsv, b"1,0,HR,", "not_a_number", "\"\"");
        bad(Format::IcuCsv, b"1,0,GCS", "missing_column", "record_id,minute,parameter,value");
    }

    #[test]
    fn csv_rows_pass_through_unjudged() {
        let got = reading(
            Format::Csv,
            "no id!,\"watch, \"\"7\"\"\", mood ,+1e9,furlong,2026-03-01T12:00:00.25+02:00",
        );
        let expect = FileReading {
            patient_id: "no id!".to_owned(),
            device_id: "watch, \"7\"".to_owned(),
            vital: "mood".to_owned(),
            value: 1e9,
            unit: Some("furlong".to_owned()),
            quality: None,
            measured_at: "2026-03-01T10:00:00.250Z".parse().unwrap(),
            context: None,
            line: 9,
        };
        assert_eq!(got, expect);
        assert_eq!(reading(Format::Csv, "1,2,3,4,,2026-03-01T12:00:00Z").unit, None);
    }

    #[test]
    fn csv_lines_that_cannot_be_read_say_why() {
        for (text, code, mend) in [
            ("101,w,heart_rate,80,/min", "missing_column", "patientId,deviceId,vital"),
            ("101,w,heart_rate,36,5,Cel,2026-03-01T12:00:00Z", "extra_column", "needs quotes"),
            ("101,\"w,heart_rate,80,/min,2026-03-01T12:00:00Z", "missing_column", "patientId"),
            ("101,w,heart_rate,80,/min,2026-03-01T12:00:00Z\rx", "invalid_time", "RFC 3339"),
            ("101,w,heart_rate,80,/min,2026-03-01T12:00:00", "invalid_time", "with a zone"),
            ("101,w,heart_rate,80,/min,yesterday", "invalid_time", "\"yesterday\""),
            ("101,w,heart_rate,NaN,/min,2026-03-01T12:00:00Z", "not_a_number", "\"NaN\""),
            ("101,w,heart_rate,inf,/min,2026-03-01T12:00:00Z", "not_a_number", "\"inf\""),
            ("101,w,heart_rate,80 bpm,/min,2026-03-01T12:00:00Z", "not_a_number", "80 bpm"),
        ] {
            bad(Format::Csv, text.as_bytes(), code, mend);
        }
        let long = format!("101,w,heart_rate,{},,2026-03-01T12:00:00Z", "ä".repeat(5000));
        let fault = row(Format::Csv, long.as_bytes()).unwrap_err();
        assert!(fault.detail.len() < 400, "{}", fault.detail);
        let long = format!(r#"{{"patientId":"1","quality":"{}"}}"#, "ä".repeat(5000));
        let fault = row(Format::Ndjson, long.as_bytes()).unwrap_err();
        assert!(fault.detail.len() < 400, "{}", fault.detail);
        bad(Format::Csv, b"101,\xff,heart_rate,80,,2026-03-01T12:00:00Z", "not_utf8", "UTF-8");
        // Two halves of one character, which would be UTF-8 if the comma were not between them.
        bad(Format::Csv, b"101,\xc3,\xa4,80,,2026-03-01T12:00:00Z", "not_utf8", "UTF-8");
    }

    #[test]
    fn ndjson_rows_are_the_readings_of_the_api() {
        let got = reading(
            Format::Ndjson,
            r#"{"patientId":"101","deviceId":"watch-7","vital":"heart_rate","value":130,"unit":"/min","quality":0.9,"measuredAt":"2025-10-20T10:20:00Z","context":{"posture": "sitting"},"more":1}"#,
        );
        let expect = FileReading {
            patient_id: "101".to_owned(),
            device_id: "watch-7".to_owned(),
            vital: "heart_rate".to_owned(),
            value: 130.0,
            unit: Some("/min".to_owned()),
            quality: Some(0.9),
            measured_at: "2025-10-20T10:20:00Z".parse().unwrap(),
            context: Some(r#"{"posture": "sitting"}"#.to_owned()),
            line: 9,
        };
        assert_eq!(got, expect);
    }

    #[test]
    fn ndjson_lines_that_cannot_be_read_say_why() {
        let with_value = |value: &str| {
            format!(
                r#"{{"patientId":"101","deviceId":"w","vital":"spo2","value":{value},"measuredAt":"2025-10-20T10:20:00Z"}}"#
            )
        };
        assert_eq!(reading(Format::Ndjson, &with_value("97.5")).value, 97.5);
        for (value, code) in [
            (r#""97""#, "not_a_number"),
            ("true", "not_a_number"),
            ("[97]", "not_a_number"),
            ("1e999", "not_a_number"),
            ("null", "missing_field"),
            ("NaN", "not_json"),
            ("", "not_json"),
        ] {
            bad(Format::Ndjson, with_value(value).as_bytes(), code, "");
        }
        for (text, code, mend) in [
            (r#"{"patientId":101}"#, "invalid_reading", "column 16"),
            (r#"{"patientId":"1","patientId":"2"}"#, "invalid_reading", "patientId"),
            (r#"{"quality":"good"}"#, "invalid_reading", "good"),
            (r#"[1,2]"#, "invalid_reading", "one reading a line"),
            ("not json", "not_json", "one JSON object a line"),
            (r#"{"deviceId":"w","vital":"spo2","value":97}"#, "missing_field", "\"patientId\""),
            (
                r#"{"patientId":"1","deviceId":"w","vital":"spo2","value":97,"measuredAt":"10:20"}"#,
                "invalid_time",
                "RFC 3339",
            ),
        ] {
            bad(Format::Ndjson, text.as_bytes(), code, mend);
        }
    }
}
