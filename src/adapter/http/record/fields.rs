//! What a record may say: each field's type and bounds.
//!
//! Guarantees that what is let through means what it says: a key that has no meaning, a date
//! that is none, or a ward with a space before it would leave an alarm off without a word.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};

use super::super::extract::pointer_part;
use super::super::problem::Problem;
use crate::auth::wards::WARD_CHARS_MAX;
use crate::event::{ID_RULE, is_fhir_id};
use crate::rules::facts::{BIRTH_YEAR_MIN, Limit, birth_date};

/// Every field.
const KNOWN: [&str; 9] =
    ["ward", "bed", "name", "birthDate", "spo2Scale", "address", "devices", "limits", "extra"];
const NAME_CHARS_MAX: usize = 200;
const ADDRESS_CHARS_MAX: usize = 500;
/// Devices of one record.
const DEVICES_MAX: usize = 100;
/// Between two readings of a device.
const INTERVAL_SECONDS: std::ops::RangeInclusive<f64> = 0.01..=604_800.0;
/// Somewhere the next day has begun so long before it does in UTC.
const EASTMOST_HOURS: i64 = 14;

/// Refuses what is no record, or no part of one. Null stands for what is to be removed.
pub fn check(fields: &Map<String, Value>, now: DateTime<Utc>) -> Result<(), Problem> {
    for (key, value) in fields {
        if !KNOWN.contains(&&**key) {
            return Err(unknown("", key, &KNOWN));
        }
        if value.is_null() {
            continue;
        }
        match &**key {
            "ward" => text("invalid_ward", "/ward", value, WARD_CHARS_MAX)?,
            "bed" => text("invalid_text", "/bed", value, WARD_CHARS_MAX)?,
            "name" => text("invalid_text", "/name", value, NAME_CHARS_MAX)?,
            "address" => text("invalid_text", "/address", value, ADDRESS_CHARS_MAX)?,
            "birthDate" => born(value, now)?,
            "spo2Scale" if !matches!(value.as_i64(), Some(1 | 2)) => {
                let detail = "spo2Scale is 1, or 2 where a clinician has set it";
                return Err(Problem::invalid("invalid_spo2_scale", "/spo2Scale", detail));
            }
            "limits" => limits(value)?,
            "devices" => devices(value)?,
            "extra" => _ = object("/extra", value, "extra is an object of what you like")?,
            _ => {}
        }
    }
    Ok(())
}

fn unknown(at: &str, key: &str, known: &[&str]) -> Problem {
    let pointer = format!("{at}/{}", pointer_part(key));
    let free = if at.is_empty() { ", and what is free goes under extra" } else { "" };
    let detail = format!("nothing here is called {key:?}: it is {}{free}", known.join(", "));
    Problem::invalid("unknown_field", &pointer, detail)
}

fn text(code: &'static str, pointer: &str, value: &Value, max: usize) -> Result<(), Problem> {
    let fits = |text: &str| {
        (1..=max).contains(&text.chars().count())
            && text.trim() == text
            && !text.contains(char::is_control)
    };
    if value.as_str().is_some_and(fits) {
        return Ok(());
    }
    let detail = format!(
        "{} is a text of 1 to {max} characters, without spaces around it and control characters",
        &pointer[1..]
    );
    Err(Problem::invalid(code, pointer, detail))
}

fn born(value: &Value, now: DateTime<Utc>) -> Result<(), Problem> {
    let today = (now + TimeDelta::hours(EASTMOST_HOURS)).date_naive();
    if value.as_str().and_then(birth_date).is_some_and(|born| born <= today) {
        return Ok(());
    }
    let detail = format!(
        "birthDate is a date of the calendar as 1950-04-30, from {BIRTH_YEAR_MIN} to today"
    );
    Err(Problem::invalid("invalid_birth_date", "/birthDate", detail))
}

fn object<'a>(
    pointer: &str,
    value: &'a Value,
    detail: &str,
) -> Result<&'a Map<String, Value>, Problem> {
    value.as_object().ok_or_else(|| Problem::invalid("not_an_object", pointer, detail))
}

fn limits(value: &Value) -> Result<(), Problem> {
    let code = "invalid_limit_of_patient";
    let Some(limits) = value.as_object() else {
        let detail = "limits is an object of limits as heart_rate_high";
        return Err(Problem::invalid(code, "/limits", detail));
    };
    for (key, limit) in limits.iter().filter(|(_, limit)| !limit.is_null()) {
        Limit::read(key, limit).map_err(|wrong| {
            let pointer = format!("/limits/{}{}", pointer_part(key), wrong.at);
            Problem::invalid(code, &pointer, wrong.what)
        })?;
    }
    Ok(())
}

fn devices(value: &Value) -> Result<(), Problem> {
    let devices = object("/devices", value, "devices is an object of devices by their ids")?;
    if devices.len() > DEVICES_MAX {
        let detail = format!("a record names {DEVICES_MAX} devices at most");
        return Err(Problem::invalid("too_many_devices", "/devices", detail));
    }
    for (id, device) in devices {
        let at = format!("/devices/{}", pointer_part(id));
        if !is_fhir_id(id) {
            let detail = format!("a device's id {ID_RULE}");
            return Err(Problem::invalid("invalid_id", &at, detail));
        }
        if device.is_null() {
            continue;
        }
        let said = object(&at, device, "a device is an object as {\"intervalSeconds\": 60}")?;
        if let Some(key) = said.keys().find(|key| *key != "intervalSeconds") {
            return Err(unknown(&at, key, &["intervalSeconds"]));
        }
        let seconds = said.get("intervalSeconds").map(Value::as_f64);
        if seconds.is_some_and(|s| !s.is_some_and(|s| INTERVAL_SECONDS.contains(&s))) {
            let (least, most) = (INTERVAL_SECONDS.start(), INTERVAL_SECONDS.end());
            let detail = format!("intervalSeconds is a number within {least} and {most}");
            let at = format!("{at}/intervalSeconds");
            return Err(Problem::invalid("invalid_interval", &at, detail));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(record: &Value) -> Result<(), Problem> {
        check(record.as_object().unwrap(), "2026-06-01T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_record_says_what_is_meant() {
        let whole = json!({
            "ward": "4B", "bed": "12", "name": "Ada Byron", "birthDate": "1950-04-30", "spo2Scale": 2,
            "address": "12 St James's Square, London", "extra": { "anything": [1, null] },
            "devices": { "watch-7": { "intervalSeconds": 0.5 }, "cuff": {} },
            "limits": {
                "heart_rate_high": 150,
                "spo2_low": { "value": 88, "by": "dr-who", "until": "2027-01-01T00:00:00Z" },
                "body_temperature_high": { "value": 39.5, "by": null, "until": null },
            },
        });
        assert!(checked(&whole).is_ok(), "{:?}", checked(&whole));
        let removed: Map<String, Value> =
            KNOWN.iter().map(|k| (k.to_string(), json!(null))).collect();
        assert!(checked(&removed.into()).is_ok());
        // In the east it is tomorrow already.
        assert!(checked(&json!({ "birthDate": "2026-06-02" })).is_ok());
    }

    #[test]
    fn what_nobody_would_read_is_refused_with_its_place() {
        for (record, expected) in [
            (json!({ "spo2scale": 2 }), "unknown_field /spo2scale"),
            (json!({ "limit": {} }), "unknown_field /limit"),
            (json!({ "a/b": 1 }), "unknown_field /a~1b"),
            (json!({ "ward": " 4B" }), "invalid_ward /ward"),
            (json!({ "ward": 4 }), "invalid_ward /ward"),
            (json!({ "bed": "" }), "invalid_text /bed"),
            (json!({ "name": "a\nb" }), "invalid_text /name"),
            (json!({ "birthDate": "2050-01-01" }), "invalid_birth_date /birthDate"),
            (json!({ "birthDate": "2026-06-03" }), "invalid_birth_date /birthDate"),
            (json!({ "birthDate": "+262142-01-01" }), "invalid_birth_date /birthDate"),
            (json!({ "birthDate": " 1950-04-30" }), "invalid_birth_date /birthDate"),
            (json!({ "birthDate": "1950-4-3" }), "invalid_birth_date /birthDate"),
            (json!({ "birthDate": "1950-02-30" }), "invalid_birth_date /birthDate"),
            (json!({ "birthDate": "0950-04-30" }), "invalid_birth_date /birthDate"),
            (json!({ "spo2Scale": 2.5 }), "invalid_spo2_scale /spo2Scale"),
            (json!({ "extra": [] }), "not_an_object /extra"),
            (json!({ "limits": [] }), "invalid_limit_of_patient /limits"),
            (
                json!({ "limits": { "heart_rate_hihg": 180 } }),
                "invalid_limit_of_patient /limits/heart_rate_hihg",
            ),
            (
                json!({ "limits": { "heart_rate_high": { "value": 180, "expires": "2026-06-02T00:00:00Z" } } }),
                "invalid_limit_of_patient /limits/heart_rate_high/expires",
            ),
            (
                json!({ "limits": { "heart_rate_high": { "value": 180, "until": "tomorrow" } } }),
                "invalid_limit_of_patient /limits/heart_rate_high/until",
            ),
            (
                json!({ "limits": { "heart_rate_high": { "value": "180" } } }),
                "invalid_limit_of_patient /limits/heart_rate_high/value",
            ),
            (
                json!({ "limits": { "heart_rate_high": { "value": 180, "by": 7 } } }),
                "invalid_limit_of_patient /limits/heart_rate_high/by",
            ),
            (
                json!({ "limits": { "heart_rate_high": 4000 } }),
                "invalid_limit_of_patient /limits/heart_rate_high",
            ),
            (json!({ "devices": { "a b": {} } }), "invalid_id /devices/a b"),
            (json!({ "devices": { "cuff": 7 } }), "not_an_object /devices/cuff"),
            (
                json!({ "devices": { "cuff": { "interval": 7 } } }),
                "unknown_field /devices/cuff/interval",
            ),
            (
                json!({ "devices": { "cuff": { "intervalSeconds": "7" } } }),
                "invalid_interval /devices/cuff/intervalSeconds",
            ),
        ] {
            let problem = checked(&record).expect_err(&record.to_string());
            assert_eq!(problem.place(), expected, "{record}");
        }
    }
}
