//! One line of a recorded file: what it says, or what is wrong with it.
//!
//! Guarantees that only what makes a line unreadable is a fault, with a stable code
//! and a mend. Does not judge readings.

mod columns;
pub(super) mod fields;
mod json;

use chrono::{DateTime, TimeDelta, Utc};

use self::columns::{COLUMNS_MAX, Splitter};
use self::fields::{RowFault, number, quoted, start_of, time};
use super::contents::{FileFormat, FileReading, FileRow};
use crate::intake::quality::Quality;
use crate::vital::Vital;

const ICU_HEADER: [&str; 4] = ["record_id", "minute", "parameter", "value"];
/// What a CSV file has at least; it may also have the columns of a history's table.
const CSV_HEADER: [&str; 6] = ["patientId", "deviceId", "vital", "value", "unit", "measuredAt"];
/// All columns of a CSV file, found by their names. What was recorded is told for people:
/// this log records anew.
const CSV_COLUMNS: [&str; COLUMNS_MAX] = [
    "patientId",
    "deviceId",
    "vital",
    "value",
    "measuredAt",
    "unit",
    "quality",
    "deviceQuality",
    "context",
    "recordedAt",
];
/// The first so many of them must be there.
const CSV_COLUMNS_NEEDED: usize = 5;

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

/// Reads the lines of one format.
pub struct RowParser {
    format: FileFormat,
    epoch: DateTime<Utc>,
    splitter: Splitter,
    /// The columns of a CSV file as its header names them.
    named: Vec<&'static str>,
}

impl RowParser {
    /// `epoch` is minute 0 of `icu-csv`.
    pub fn new(format: FileFormat, epoch: DateTime<Utc>) -> RowParser {
        let named = CSV_HEADER.to_vec();
        RowParser { format, epoch, splitter: Splitter::new(), named }
    }

    /// The first line that the format demands.
    pub fn header(&self) -> Option<String> {
        match self.format {
            FileFormat::IcuCsv => Some(ICU_HEADER.join(",")),
            FileFormat::Csv => Some(CSV_HEADER.join(",")),
            FileFormat::Ndjson => None,
        }
    }

    /// Whether `text` is that line, quoted or not; a CSV file's columns are found by it.
    pub fn is_header(&mut self, text: &[u8]) -> bool {
        let Ok((columns, count)) = self.splitter.all(text) else { return false };
        let Some(columns) = columns.get(..count) else { return false };
        match self.format {
            FileFormat::IcuCsv => columns == ICU_HEADER,
            FileFormat::Csv => {
                let known = |name: &&str| CSV_COLUMNS.iter().find(|known| *known == name).copied();
                self.named = columns.iter().filter_map(known).collect();
                let once = |name: &&str| self.named.iter().filter(|named| *named == name).count();
                self.named.len() == count
                    && CSV_COLUMNS.iter().all(|name| once(name) <= 1)
                    && CSV_COLUMNS[..CSV_COLUMNS_NEEDED].iter().all(|name| once(name) == 1)
            }
            FileFormat::Ndjson => false,
        }
    }

    /// Reads one line after the header; `line` is its number.
    pub fn row(&mut self, text: &[u8], line: u64) -> Result<FileRow, RowFault> {
        match self.format {
            FileFormat::IcuCsv => {
                icu_row(self.splitter.split(text, &ICU_HEADER)?, self.epoch, line)
            }
            FileFormat::Csv => csv_row(self.splitter.split(text, &self.named)?, &self.named, line),
            FileFormat::Ndjson => json::row(text, line),
        }
    }
}

fn icu_row(
    columns: [&str; COLUMNS_MAX],
    epoch: DateTime<Utc>,
    line: u64,
) -> Result<FileRow, RowFault> {
    let [patient_id, minute, parameter, value, ..] = columns;
    let Some((_, vital, device)) = ICU_PARAMETERS.iter().find(|(name, ..)| *name == parameter)
    else {
        return Ok(FileRow::Skipped(start_of(parameter)));
    };
    let measured_at = minute
        .parse()
        .ok()
        .and_then(TimeDelta::try_minutes)
        .and_then(|since| epoch.checked_add_signed(since))
        .ok_or_else(|| {
            let minute = quoted(minute);
            RowFault::new(
                "invalid_time",
                format!("{minute} is no whole number of minutes since the epoch"),
            )
        })?;
    Ok(FileRow::Reading(FileReading {
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

fn csv_row(columns: [&str; COLUMNS_MAX], named: &[&str], line: u64) -> Result<FileRow, RowFault> {
    let column = |name: &str| {
        let place = named.iter().position(|named| *named == name);
        place.and_then(|place| columns.get(place)).copied().filter(|text| !text.is_empty())
    };
    let [patient_id, device_id, vital, value, measured_at] =
        ["patientId", "deviceId", "vital", "value", "measuredAt"]
            .map(|name| column(name).unwrap_or_default());
    let own = column("deviceQuality").or(column("quality").filter(|text| !Quality::is_word(text)));
    Ok(FileRow::Reading(FileReading {
        patient_id: patient_id.to_owned(),
        device_id: device_id.to_owned(),
        vital: vital.to_owned(),
        value: number(value)?,
        unit: column("unit").map(str::to_owned),
        quality: own.map(number).transpose()?,
        measured_at: time(measured_at)?,
        context: column("context").map(str::to_owned),
        line,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(format: FileFormat, text: &[u8]) -> Result<FileRow, RowFault> {
        RowParser::new(format, "2026-01-01T00:00:00Z".parse().unwrap()).row(text, 9)
    }

    fn reading(format: FileFormat, text: &str) -> FileReading {
        match row(format, text.as_bytes()) {
            Ok(FileRow::Reading(reading)) => reading,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[track_caller]
    fn bad(format: FileFormat, text: &[u8], expect: &str, mend: &str) {
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
            let got = reading(FileFormat::IcuCsv, &format!("132539,1507,{parameter},-17.8"));
            assert_eq!((got.patient_id.as_str(), got.value, got.line), ("132539", -17.8, 9));
            assert_eq!((got.vital.as_str(), got.device_id.as_str()), (vital, device));
            assert_eq!(got.measured_at.to_rfc3339(), "2026-01-02T01:07:00+00:00");
            assert_eq!((got.unit, got.quality, got.context), (None, None, None));
        }
        // What is no vital is skipped before its value is looked at.
        for skipped in ["1,0,GCS,15", "1,0,FiO2,-", "1,0,Weight,80", "1,0,hr,80", "1,0,,"] {
            assert!(matches!(row(FileFormat::IcuCsv, skipped.as_bytes()), Ok(FileRow::Skipped(_))));
        }
        bad(
            FileFormat::IcuCsv,
            b"1,9223372036854775807,HR,80",
            "invalid_time",
            "whole number of minutes",
        );
        bad(FileFormat::IcuCsv, b"1,0.5,HR,80", "invalid_time", "\"0.5\"");
        bad(FileFormat::IcuCsv, b"1,0,HR,", "not_a_number", "\"\"");
        bad(FileFormat::IcuCsv, b"1,0,GCS", "missing_column", "record_id,minute,parameter,value");
    }

    #[test]
    fn csv_rows_pass_through_unjudged() {
        let got = reading(
            FileFormat::Csv,
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
        assert_eq!(reading(FileFormat::Csv, "1,2,3,4,,2026-03-01T12:00:00Z").unit, None);
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
            bad(FileFormat::Csv, text.as_bytes(), code, mend);
        }
        let long = format!("101,w,heart_rate,{},,2026-03-01T12:00:00Z", "ä".repeat(5000));
        let fault = row(FileFormat::Csv, long.as_bytes()).unwrap_err();
        assert!(fault.detail.len() < 400, "{}", fault.detail);
        let long = format!(r#"{{"patientId":"1","quality":"{}"}}"#, "ä".repeat(5000));
        let fault = row(FileFormat::Ndjson, long.as_bytes()).unwrap_err();
        assert!(fault.detail.len() < 400, "{}", fault.detail);
        bad(FileFormat::Csv, b"101,\xff,heart_rate,80,,2026-03-01T12:00:00Z", "not_utf8", "UTF-8");
        // Two halves of one character, which would be UTF-8 if the comma were not between them.
        bad(FileFormat::Csv, b"101,\xc3,\xa4,80,,2026-03-01T12:00:00Z", "not_utf8", "UTF-8");
    }

    #[test]
    fn ndjson_rows_are_the_readings_of_the_api() {
        let got = reading(
            FileFormat::Ndjson,
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
    fn what_the_platform_has_given_out_is_read_again() {
        let line = r#"{"type":"reading","patientId":"101","deviceId":"w","vital":"spo2","value":97.12345678901234,"unit":"%","quality":"good","measuredAt":"2025-10-20T10:20:00Z","recordedAt":"2025-10-20T10:20:01Z","deviceQuality":0.5}"#;
        let got = reading(FileFormat::Ndjson, line);
        // To the last bit: a parser that hurries is one beside it.
        assert_eq!((got.value, got.quality), (97.123_456_789_012_34, Some(0.5)));
        let another = line.replace("\"reading\"", "\"spot-check\"");
        assert_eq!(reading(FileFormat::Ndjson, &another), got);
        let alert = r#"{"v":2,"alertId":"a","type":"HIGH_HEART_RATE","vital":"spo2","value":97}"#;
        let skipped = FileRow::Skipped("HIGH_HEART_RATE".to_owned());
        assert_eq!(row(FileFormat::Ndjson, alert.as_bytes()).unwrap(), skipped);
        let retracted = r#"{"v":1,"vital":"spo2","deviceId":"w","measuredAt":"2025-10-20T10:20:00Z","readingPosition":7,"reason":"off","by":"dr-b","type":"reading_retracted","patientId":"101"}"#;
        let Ok(FileRow::Retraction(retraction)) = row(FileFormat::Ndjson, retracted.as_bytes())
        else {
            panic!("no retraction")
        };
        assert_eq!((&*retraction.by, &*retraction.reason, retraction.line), ("dr-b", "off", 9));

        let mut parser = RowParser::new(FileFormat::Csv, DateTime::UNIX_EPOCH);
        for bad in ["patientId", "patientId,deviceId,vital,value,measuredAt,note"] {
            assert!(!parser.is_header(bad.as_bytes()), "{bad}");
        }
        assert!(!parser.is_header(b"patientId,deviceId,vital,value,measuredAt,value"));
        let head = "value,vital,patientId,deviceId,quality,measuredAt,deviceQuality,context";
        assert!(parser.is_header(head.as_bytes()));
        let text = r#"97,spo2,101,w,suspect,2025-10-20T10:20:00Z,0.25,"{""a"": ""b, c""}""#;
        let Ok(FileRow::Reading(got)) = parser.row(text.as_bytes(), 2) else {
            panic!("no reading")
        };
        assert_eq!((got.value, got.quality), (97.0, Some(0.25)));
        assert_eq!(got.context.as_deref(), Some(r#"{"a": "b, c"}"#));
    }

    #[test]
    fn ndjson_lines_that_cannot_be_read_say_why() {
        let with_value = |value: &str| {
            format!(
                r#"{{"patientId":"101","deviceId":"w","vital":"spo2","value":{value},"measuredAt":"2025-10-20T10:20:00Z"}}"#
            )
        };
        assert_eq!(reading(FileFormat::Ndjson, &with_value("97.5")).value, 97.5);
        for (value, code) in [
            (r#""97""#, "not_a_number"),
            ("true", "not_a_number"),
            ("[97]", "not_a_number"),
            ("1e999", "not_a_number"),
            ("null", "missing_field"),
            ("NaN", "unreadable_json"),
            ("", "unreadable_json"),
        ] {
            bad(FileFormat::Ndjson, with_value(value).as_bytes(), code, "");
        }
        for (text, code, mend) in [
            (&*with_value("97").replace("\"101\"", "101"), "not_a_string", "patientId"),
            (&*with_value("97,\"patientId\":\"2\""), "invalid_reading", "patientId"),
            (&*with_value("97,\"quality\":\"fair\""), "not_a_number", "good or suspect"),
            (r#"{"patientId":101}"#, "missing_field", "deviceId"),
            (r#"[1,2]"#, "not_an_object", "JSON object"),
            (
                r#"[null,"1","w","spo2",97,"%",null,null,"2025-10-20T10:20:00Z",null,null,null]"#,
                "not_an_object",
                "JSON object",
            ),
            ("not json", "unreadable_json", "column 2"),
            (r#"{"deviceId":"w","vital":"spo2","value":97}"#, "missing_field", "patientId"),
            (
                r#"{"patientId":"1","deviceId":"w","vital":"spo2","value":97,"measuredAt":"10:20"}"#,
                "invalid_time",
                "RFC 3339",
            ),
        ] {
            bad(FileFormat::Ndjson, text.as_bytes(), code, mend);
        }
    }
}
