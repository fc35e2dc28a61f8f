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

impl Limit {
    /// Whether a key of a record's `limits` names a limit of ours, as `heart_rate_high`.
    pub fn is_name(key: &str) -> bool {
        let vital = key.strip_suffix("_high").or_else(|| key.strip_suffix("_low"));
        vital.is_some_and(|vital| vital.parse::<Vital>().is_ok())
    }

    /// Reads one entry of a record's `limits`: `"heart_rate_high": 150`, or
    /// `{"value": 150, "by": "dr-who", "until": "2026-01-01T00:00:00Z"}`.
    pub fn read(key: &str, entry: &Value) -> Result<Limit, String> {
        let (name, high) = match (key.strip_suffix("_high"), key.strip_suffix("_low")) {
            (Some(name), _) => (name, true),
            (_, Some(name)) => (name, false),
            _ => return Err(format!("{key}: a limit is named as heart_rate_high or spo2_low")),
        };
        let vital: Vital = name.parse().map_err(|error| format!("{key}: {error}"))?;
        let value = entry.as_f64().or_else(|| entry.get("value")?.as_f64());
        let value =
            value.ok_or_else(|| format!("{key}: write a number, or value, by and until"))?;
        let value = vital.measure(value, None).map_err(|error| format!("{key}: {error}"))?.value;
        let until = match entry.get("until").filter(|until| !until.is_null()) {
            None => None,
            Some(until) => {
                let time = until.as_str().and_then(|t| DateTime::parse_from_rfc3339(t).ok());
                let time =
                    time.ok_or_else(|| format!("{key}: until is a time as 2026-01-01T00:00:00Z"))?;
                Some(time.to_utc())
            }
        };
        let by = entry.get("by").and_then(Value::as_str).map(str::to_owned);
        Ok(Limit { vital, high, value, until, by })
    }
}

impl Facts {
    /// Of a patient's record, as JSON text.
    pub fn of_record(record: &str) -> Facts {
        let record: Value = serde_json::from_str(record).unwrap_or_default();
        let text = |key: &str| record.get(key).and_then(Value::as_str);
        let limits = record.get("limits").and_then(Value::as_object);
        Facts {
            ward: text("ward").map(str::to_owned),
            birth_date: text("birthDate").and_then(|date| date.parse().ok()),
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
