//! From bytes to readings: the JSON of `POST /readings`, taken apart.
//!
//! Guarantees that every item is judged by itself: what is wrong with one is said
//! with its code, place and mend, and the others are kept; and that a body costs
//! little more memory than its bytes. Does not judge values: [`Batch::add`] does.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::quality::Quality;
use super::reading::{Draft, ReadingFault};
use super::submit::Batch;

/// The most readings of one request.
pub const READINGS_PER_REQUEST_MAX: usize = 10_000;

/// A reading as it was sent, readable but not judged.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawReading<'a> {
    /// Whom it is about; left out by a device that is assigned to somebody.
    #[serde(borrow)]
    pub patient_id: Option<Cow<'a, str>>,
    /// What measured it.
    #[serde(borrow)]
    pub device_id: Cow<'a, str>,
    /// Its vital's name.
    #[serde(borrow)]
    pub vital: Cow<'a, str>,
    /// In `unit`.
    pub value: f64,
    /// Left out: canonical.
    #[serde(borrow)]
    pub unit: Option<Cow<'a, str>>,
    /// RFC 3339 with a zone.
    #[serde(borrow)]
    pub measured_at: Cow<'a, str>,
    /// The device's own opinion, 0–1, or the platform's word for it.
    pub quality: Option<Quality>,
    /// The device's own opinion, as answers and exports name it.
    pub device_quality: Option<f64>,
    /// A small object, stored as it is.
    #[serde(borrow)]
    pub context: Option<&'a RawValue>,
}

impl<'a> RawReading<'a> {
    pub(super) fn draft(&self) -> Result<Draft<'_>, ReadingFault> {
        Ok(Draft {
            patient_id: self.patient_id.as_deref(),
            device_id: &self.device_id,
            vital: &self.vital,
            value: self.value,
            unit: self.unit.as_deref(),
            measured_at: read_time(&self.measured_at)?,
            quality: self.device_quality.or(self.quality.and_then(Quality::own)),
            context: self.context.map(RawValue::get),
        })
    }
}

/// A reading that is an object. What serde derives takes an array of the values as well,
/// in the order of the fields, which is not for callers to know.
struct Object<'a>(RawReading<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Object<'a>, D::Error> {
        from.deserialize_map(ObjectOnly).map(Object)
    }
}

struct ObjectOnly;

impl<'de> Visitor<'de> for ObjectOnly {
    type Value = RawReading<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a reading, which is an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<RawReading<'de>, A::Error> {
        RawReading::deserialize(MapAccessDeserializer::new(members))
    }
}

/// Why a whole body was refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ParseError {
    #[error("the body is not UTF-8 from byte {at} on: send JSON in UTF-8")]
    NotUtf8 { at: usize },
    #[error("the body is no readable JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("the body is neither a reading nor an array of readings")]
    NeitherObjectNorArray,
    #[error("the array is empty: send at least one reading")]
    Empty,
    #[error("{0} readings in one request, {READINGS_PER_REQUEST_MAX} at most: split the batch")]
    TooMany(usize),
}

impl ParseError {
    /// Stable, and the same by every adapter.
    pub fn code(&self) -> &'static str {
        match self {
            ParseError::NotUtf8 { .. } => "not_utf8",
            ParseError::NotJson(_) => "unreadable_json",
            ParseError::NeitherObjectNorArray => "not_readings",
            ParseError::Empty => "empty_batch",
            ParseError::TooMany(_) => "batch_too_large",
        }
    }
}

/// Reads a body, one reading or an array of them, into an empty batch.
pub fn parse(body: &[u8], batch: &mut Batch<'_>) -> Result<(), ParseError> {
    let text =
        std::str::from_utf8(body).map_err(|e| ParseError::NotUtf8 { at: e.valid_up_to() })?;
    let (readings, in_array) = items(text)?;
    if !in_array {
        batch.single();
    }
    for reading in &readings {
        batch.add(reading.as_ref().map_err(ReadingFault::clone).and_then(RawReading::draft));
    }
    Ok(())
}

/// Reads a line of its own: what an item of an array is, and what is wrong with it is
/// said in the same words. Unlike an array it can be unreadable by itself.
pub(super) fn parse_line(line: &[u8]) -> Result<RawReading<'_>, ReadingFault> {
    let text = std::str::from_utf8(line).map_err(|error| {
        let detail = format!("the line is not UTF-8 from byte {} on", error.valid_up_to());
        ReadingFault::new("not_utf8", "", detail)
    })?;
    read_alone(text).map_err(|error| {
        let detail = format!("the line is no readable JSON from column {} on", error.column());
        ReadingFault::new("unreadable_json", "", detail)
    })?
}

/// Of a line, whether it names a patient.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    patient_id: Option<IgnoredAny>,
}

/// What is wrong with a line of a file that is no reading; `None` if nothing is. Behind a file
/// stands no device that is assigned to anybody.
pub(super) fn fault_of_line(line: &[u8]) -> Option<ReadingFault> {
    let is_nameless = |named: Named| named.patient_id.is_none();
    if line.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice(line).is_ok_and(is_nameless)
    {
        return Some(ReadingFault::new("missing_field", "patientId", "patientId is missing"));
    }
    parse_line(line).and_then(|reading| reading.draft().map(drop)).err()
}

/// A reading that can be read, or what is wrong with it.
type Read<'a> = Result<RawReading<'a>, ReadingFault>;

/// Splits a body into its items, and whether they were an array. The common case, all
/// readable, is one pass; only when something is wrong is each item read by itself to find
/// out what.
fn items(text: &str) -> Result<(Vec<Read<'_>>, bool), ParseError> {
    let in_array = match text.trim_ascii_start().bytes().next() {
        Some(b'[') => true,
        Some(b'{') => false,
        _ => {
            serde_json::from_str::<&RawValue>(text).map_err(ParseError::NotJson)?;
            return Err(ParseError::NeitherObjectNorArray);
        }
    };
    let readings = if !in_array {
        vec![read_alone(text).map_err(ParseError::NotJson)?]
    } else if let Ok(readings) = serde_json::from_str::<FirstOf<Object<'_>>>(text) {
        readings.all()?.into_iter().map(|Object(reading)| Ok(reading)).collect()
    } else {
        let raw: FirstOf<&RawValue> = serde_json::from_str(text).map_err(ParseError::NotJson)?;
        raw.all()?.into_iter().map(read_item).collect()
    };
    Ok((readings, in_array))
}

/// Reads the text of one item: in one pass, unless something is wrong with it.
fn read_alone(text: &str) -> Result<Result<RawReading<'_>, ReadingFault>, serde_json::Error> {
    match serde_json::from_str(text) {
        Ok(Object(reading)) => Ok(Ok(reading)),
        Err(_) => serde_json::from_str(text).map(read_item),
    }
}

/// The first items of an array, as many as a request may have, and the number of all
/// of them: a body of millions of items must not cost more memory than its bytes.
struct FirstOf<T> {
    first: Vec<T>,
    count: usize,
}

impl<T> FirstOf<T> {
    fn all(self) -> Result<Vec<T>, ParseError> {
        match self.count {
            0 => Err(ParseError::Empty),
            n if n > READINGS_PER_REQUEST_MAX => Err(ParseError::TooMany(n)),
            _ => Ok(self.first),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for FirstOf<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<FirstOf<T>, D::Error> {
        from.deserialize_seq(FirstOf { first: Vec::new(), count: 0 })
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for FirstOf<T> {
    type Value = FirstOf<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of readings")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<FirstOf<T>, A::Error> {
        while self.count < READINGS_PER_REQUEST_MAX {
            let Some(item) = array.next_element()? else { return Ok(self) };
            self.first.push(item);
            self.count += 1;
        }
        while array.next_element::<IgnoredAny>()?.is_some() {
            self.count += 1;
        }
        Ok(self)
    }
}

fn read_item(raw: &RawValue) -> Result<RawReading<'_>, ReadingFault> {
    let read = serde_json::from_str(raw.get()).map(|Object(reading)| reading);
    read.map_err(|error| diagnose(raw.get(), &error))
}

const TEXTS: [&str; 4] = ["patientId", "deviceId", "vital", "measuredAt"];
const KEYS: [&str; 8] =
    ["patientId", "deviceId", "vital", "value", "unit", "measuredAt", "quality", "context"];

/// Finds out what serde's message leaves open: which key, and what to do.
fn diagnose(item: &str, error: &serde_json::Error) -> ReadingFault {
    use std::collections::HashMap;
    // Keys of their own: one may be written with escapes, and then lies nowhere as it is.
    let Ok(fields) = serde_json::from_str::<HashMap<String, &RawValue>>(item) else {
        let detail = format!("a reading is a JSON object: {error}");
        return ReadingFault::new("not_an_object", "", detail);
    };
    let given = |key: &str| fields.get(key).map(|raw| raw.get()).filter(|text| *text != "null");
    for key in TEXTS.into_iter().chain(["value"]) {
        // A device may leave out at whom it is; of what has no device nobody can.
        let may_lack = key == "patientId" && given("deviceId").is_some();
        if given(key).is_none() && !may_lack {
            return ReadingFault::new("missing_field", key, format!("{key} is missing"));
        }
    }
    for key in ["value", "quality", "deviceQuality"] {
        let Some(text) = given(key) else { continue };
        if key == "quality" && serde_json::from_str::<Quality>(text).is_ok() {
            continue;
        }
        if serde_json::from_str::<f64>(text).is_err() {
            let text: String = text.chars().take(40).collect();
            let or = if key == "quality" { ", or good or suspect" } else { "" };
            let detail = format!("{key} must be a finite JSON number{or}, not {text}");
            return ReadingFault::new("not_a_number", key, detail);
        }
    }
    for key in TEXTS.into_iter().chain(["unit"]) {
        if given(key).is_some_and(|text| serde_json::from_str::<String>(text).is_err()) {
            return ReadingFault::new("not_a_string", key, format!("{key} must be a JSON string"));
        }
    }
    let detail = error.to_string();
    let twice = KEYS.into_iter().find(|key| detail.contains(&format!("duplicate field `{key}`")));
    ReadingFault::new("invalid_reading", twice.unwrap_or_default(), detail)
}

fn read_time(text: &str) -> Result<DateTime<Utc>, ReadingFault> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| {
        let text: String = text.chars().take(40).collect();
        let detail =
            format!("\"{text}\" is no RFC 3339 time with a zone: send it as 2025-10-20T10:20:00Z");
        ReadingFault::new("invalid_time", "measuredAt", detail)
    })?;
    Ok(time.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Caller;
    use crate::event::Event;
    use crate::intake::Rejected;
    use crate::log::Archived;
    use chrono::TimeDelta;

    fn now() -> DateTime<Utc> {
        "2025-10-20T10:20:00Z".parse().unwrap()
    }

    /// What of a body may be stored, and what not.
    fn parsed_of(body: &str, caller: &Caller) -> (Vec<Event>, Vec<Rejected>) {
        let mut batch = Batch::new(caller, now(), Archived::default());
        parse(body.as_bytes(), &mut batch).unwrap();
        (batch.events().to_vec(), batch.rejected().to_vec())
    }

    fn parsed(body: &str) -> (Vec<Event>, Vec<Rejected>) {
        parsed_of(body, &Caller::operator("t".into()))
    }

    const GOOD: &str = r#"{"patientId":"101","deviceId":"watch-7","vital":"heart_rate","value":130,"unit":"/min","measuredAt":"2025-10-20T10:20:00Z","more":[1]}"#;

    /// Changes one thing in a good reading and wants its code and pointer, the good
    /// readings on both sides kept.
    #[track_caller]
    fn check(change: (&str, &str), code: &str, pointer: &str) {
        let bad = GOOD.replace(change.0, change.1);
        assert_ne!(bad, GOOD);
        let (events, rejected) = parsed(&format!("[{GOOD},{bad},{GOOD}]"));
        assert_eq!(events.len(), 2);
        let rejected = &rejected[0];
        let expected = (1, code, format!("/1{pointer}"));
        assert_eq!(
            (rejected.index, rejected.code, rejected.pointer.clone()),
            expected,
            "{}",
            rejected.detail
        );
    }

    #[test]
    fn each_fault_has_its_code_and_place_and_spares_its_neighbours() {
        check(("heart_rate", "pulse"), "unknown_vital", "/vital");
        check(("\"/min\"", "\"bpm\""), "unit_not_accepted", "/unit");
        check((":130", ":401"), "value_out_of_range", "/value");
        check((":130", ":-1"), "value_out_of_range", "/value");
        check((":130", ":1e999"), "not_a_number", "/value");
        check((":130", ":\"130\""), "not_a_number", "/value");
        check((":130", ":null"), "missing_field", "/value");
        check(("\"value\":130,", ""), "missing_field", "/value");
        check(("10:20:00Z", "10:20:00"), "invalid_time", "/measuredAt");
        check(("10:20:00Z", "10:25:00.000001Z"), "measured_in_future", "/measuredAt");
        check(("2025", "1969"), "measured_too_early", "/measuredAt");
        check(("\"101\"", "\"ward/101\""), "invalid_id", "/patientId");
        check(("\"101\"", "101"), "not_a_string", "/patientId");
        check(("watch-7", ""), "invalid_id", "/deviceId");
        check(("\"more\"", "\"quality\":1.5,\"more\""), "quality_out_of_range", "/quality");
        check(("\"more\"", "\"quality\":\"fair\",\"more\""), "not_a_number", "/quality");
        check(("\"more\"", "\"deviceQuality\":2,\"more\""), "quality_out_of_range", "/quality");
        check(("\"more\"", "\"context\":[],\"more\""), "context_not_an_object", "/context");
        check((GOOD, "7"), "not_an_object", "");
        check(
            (GOOD, r#"["101","watch-7","heart_rate",130,"/min","2025-10-20T10:20:00Z",null,null]"#),
            "not_an_object",
            "",
        );
        // Whatever the keys beside it are written like, or it is itself.
        check(("130,", "\"high\",\"gr\\u00f6sse\":1,"), "not_a_number", "/value");
        check(("\"value\":130", "\"v\\u0061lue\":\"high\""), "not_a_number", "/value");
        check(("\"more\"", "\"unit\":\"/min\",\"more\""), "invalid_reading", "/unit");
        check(("\"101\"", "\"\\ud800\""), "not_a_string", "/patientId");
    }

    #[test]
    fn a_clock_five_minutes_ahead_is_taken() {
        let (events, _) = parsed(&GOOD.replace("10:20:00Z", "12:25:00+02:00"));
        assert_eq!(events[0].occurred_at, now() + TimeDelta::minutes(5));
    }

    #[test]
    fn a_single_reading_needs_no_array_and_its_pointer_no_index() {
        assert_eq!(parsed(GOOD).0[0].value, Some(130.0));
        assert_eq!(parsed(&GOOD.replace("130", "900")).1[0].pointer, "/value");
    }

    #[test]
    fn what_is_no_list_of_readings_is_refused_as_a_whole() {
        let refuse = |body: &[u8]| {
            let caller = Caller::operator("t".into());
            let mut batch = Batch::new(&caller, now(), Archived::default());
            parse(body, &mut batch).unwrap_err().to_string()
        };
        assert!(refuse(b"[]").contains("empty"));
        assert!(refuse(b"7").contains("neither"));
        assert!(refuse(b"").contains("JSON"));
        assert!(refuse(b"[{\"value\":NaN}]").contains("JSON"));
        assert!(refuse(b"[\"\xff\"]").contains("UTF-8 from byte 2"));
        let many = format!("[{}{GOOD}]", format!("{GOOD},").repeat(READINGS_PER_REQUEST_MAX));
        assert!(refuse(many.as_bytes()).contains("10001 readings"));
    }

    #[test]
    fn a_narrow_token_writes_only_its_own() {
        let mut narrow = Caller::operator("t".into());
        narrow.device = Some("watch-8".to_owned());
        assert_eq!(parsed_of(GOOD, &narrow).1[0].code, "outside_token");
    }
}
