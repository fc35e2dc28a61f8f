//! What a rule has to know of a patient beside readings: ward, age, own limits, scale.
//!
//! Guarantees to assume nothing: what the record does not say is not known. Does not
//! judge the record, which was judged when it was registered.

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::model::{Op, Scope};
use super::news2::Scale;
use crate::vital::Vital;

/// The earliest year that somebody can be born in.
pub const BIRTH_YEAR_MIN: i32 = 1850;
/// The longest name of who set a limit.
const BY_CHARS_MAX: usize = 200;

/// Of one patient.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Where they lie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ward: Option<String>,
    /// For their age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub birth_date: Option<NaiveDate>,
    /// Numbers of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// A clinician set NEWS2's scale 2.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scale_2: bool,
}

/// A patient's own limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// Of what.
    pub vital: Vital,
    /// An upper limit, and else a lower one.
    pub high: bool,
    /// In the canonical unit.
    pub value: f64,
    /// Until when it holds; for ever when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// Who set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What is wrong with a limit of a record.
#[derive(Debug, PartialEq, Eq)]
pub struct LimitFault {
    /// JSON pointer into the limit; empty for the whole.
    pub at: String,
    /// For a person, with the mend.
    pub what: String,
}

impl Limit {
    /// Reads one entry of a record's `limits`: `"heart_rate_high": 150`, or
    /// `{"value": 150, "by": "dr-who", "until": "2026-01-01T00:00:00Z"}`. A key that is not
    /// known is refused: an `expires` would be a limit without an end.
    pub fn read(key: &str, entry: &Value) -> Result<Limit, LimitFault> {
        let fault = |at: &str, what: String| LimitFault { at: at.to_owned(), what };
        let (name, high) = match (key.strip_suffix("_high"), key.strip_suffix("_low")) {
            (Some(name), _) => (name, true),
            (_, Some(name)) => (name, false),
            _ => {
                let what = format!("{key}: a limit is named as heart_rate_high or spo2_low");
                return Err(fault("", what));
            }
        };
        let vital: Vital = name.parse().map_err(|error| fault("", format!("{key}: {error}")))?;
        let known = ["value", "by", "until"];
        let stranger =
            entry.as_object().and_then(|entry| entry.keys().find(|key| !known.contains(&&***key)));
        if let Some(stranger) = stranger {
            let at = stranger.replace('~', "~0").replace('/', "~1");
            let what = format!("{key}: a limit has a value, by and until, and no {stranger:?}");
            return Err(fault(&format!("/{at}"), what));
        }
        let at = if entry.is_object() { "/value" } else { "" };
        let value = entry
            .as_f64()
            .or_else(|| entry.get("value")?.as_f64())
            .ok_or_else(|| fault(at, format!("{key}: write a number, or value, by and until")))?;
        let measured = vital.measure(value, None);
        let value = measured.map_err(|error| fault(at, format!("{key}: {error}")))?.value;
        let said = |name: &str| entry.get(name).filter(|said| !said.is_null());
        let until = match said("until") {
            None => None,
            Some(until) => {
                let time = until.as_str().and_then(|t| DateTime::parse_from_rfc3339(t).ok());
                let what = || format!("{key}: until is a time as 2026-01-01T00:00:00Z");
                Some(time.ok_or_else(|| fault("/until", what()))?.to_utc())
            }
        };
        let by = match said("by") {
            None => None,
            Some(by) => {
                let fits = |by: &&str| (1..=BY_CHARS_MAX).contains(&by.chars().count());
                let what = || format!("{key}: by is a text of 1 to {BY_CHARS_MAX} characters");
                let by = by.as_str().filter(fits).ok_or_else(|| fault("/by", what()))?;
                Some(by.to_owned())
            }
        };
        Ok(Limit { vital, high, value, until, by })
    }
}

/// A date of the calendar as 1950-04-30, and written so. Nobody is older than
/// [`BIRTH_YEAR_MIN`] allows.
pub fn birth_date(text: &str) -> Option<NaiveDate> {
    let (year, month, day) = (text.get(..4)?, text.get(5..7)?, text.get(8..)?);
    let digits = [year, month, day].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()));
    let date = digits.then(|| text.parse::<NaiveDate>().ok())?;
    date.filter(|date| text.len() == 10 && date.year() >= BIRTH_YEAR_MIN)
}

impl Facts {
    /// Of a patient's record, as JSON text.
    pub fn of_record(record: &str) -> Facts {
        let record: Value = serde_json::from_str(record).unwrap_or_default();
        let text = |key: &str| record.get(key).and_then(Value::as_str);
        let limits = record.get("limits").and_then(Value::as_object);
        Facts {
            ward: text("ward").map(str::to_owned),
            birth_date: text("birthDate").and_then(birth_date),
            // Older records were not judged: what is no limit is none.
            limits: limits
                .into_iter()
                .flatten()
                .filter_map(|(key, entry)| Limit::read(key, entry).ok())
                .collect(),
            scale_2: record.get("spo2Scale").and_then(Value::as_i64) == Some(2),
        }
    }

    /// Whether a rule of this scope is for them. Who is not known to fit does not.
    pub fn fit(&self, scope: &Scope, at: DateTime<Utc>) -> bool {
        if !scope.wards.is_empty()
            && !self.ward.as_ref().is_some_and(|ward| scope.wards.contains(ward))
        {
            return false;
        }
        if scope.age_min.is_none() && scope.age_max.is_none() {
            return true;
        }
        let Some(age) = self.age(at) else { return false };
        scope.age_min.is_none_or(|min| age >= min) && scope.age_max.is_none_or(|max| age <= max)
    }

    fn age(&self, at: DateTime<Utc>) -> Option<u32> {
        let (born, today) = (self.birth_date?, at.date_naive());
        let before_birthday = (today.month(), today.day()) < (born.month(), born.day());
        u32::try_from(today.year() - born.year() - i32::from(before_birthday)).ok()
    }

    /// Their own number, as long as it holds.
    pub fn limit(&self, vital: Vital, op: Op, at: DateTime<Utc>) -> Option<f64> {
        let fits = |limit: &&Limit| {
            limit.vital == vital
                && limit.high == op.is_upward()
                && limit.until.is_none_or(|until| at < until)
        };
        self.limits.iter().find(fits).map(|limit| limit.value)
    }

    /// Which saturations are normal for them.
    pub fn scale(&self) -> Scale {
        if self.scale_2 { Scale::Two } else { Scale::One }
    }
}
