//! What answers look like: the JSON of events, states, alerts and lists.
//!
//! Guarantees one shape for one thing wherever it appears. Does not ask anything.

pub mod line;

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::clock::rfc3339;
use crate::event::{ALERT_ACKNOWLEDGED, READING, READING_RETRACTED, Recorded, number};
use crate::log::Log;
use crate::query::alerts::Alert;
use crate::query::state::{Newest, State};
use crate::rules::news2;

/// `good` or `suspect`.
pub fn quality(suspect: bool) -> &'static str {
    if suspect { "suspect" } else { "good" }
}

/// An event of the stream or of a replay: its name, and its body. `None` for what
/// is not for outside.
pub fn event(recorded: &Recorded) -> Option<(&'static str, Value)> {
    let event = &recorded.event;
    if event.kind == READING {
        let vital = event.vital?;
        let mut body = json!({
            "type": "reading",
            "patientId": event.patient_id,
            "deviceId": event.source_id,
            "vital": vital.name(),
            "value": event.value.map(number),
            "unit": vital.unit(),
            "quality": quality(event.suspect),
            "measuredAt": rfc3339(event.occurred_at),
            "recordedAt": rfc3339(recorded.recorded_at),
        });
        add_what_was_sent(&mut body, event.quality, event.data.as_deref());
        return Some(("reading", body));
    }
    let name = match &*event.kind {
        READING_RETRACTED => "retraction",
        ALERT_ACKNOWLEDGED => "alert",
        _ if event.is_alert() => "alert",
        _ => return None,
    };
    let mut body: Map<String, Value> = serde_json::from_str(event.data.as_ref()?).ok()?;
    if name == "retraction" {
        body.insert("by".into(), event.source_id.clone().into());
    }
    body.insert("type".into(), event.kind.clone().into());
    body.insert("patientId".into(), event.patient_id.clone().into());
    body.insert("recordedAt".into(), rfc3339(recorded.recorded_at).into());
    body.entry("measuredAt").or_insert_with(|| rfc3339(event.occurred_at).into());
    Some((name, Value::Object(body)))
}

/// An alert as lists and states show it.
pub fn alert(alert: &Alert) -> Value {
    let mut acknowledged: Value = alert
        .acknowledged
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    if let Some(said) = acknowledged.as_object_mut() {
        // Older events do not know how somebody came.
        for key in ["by", "subject", "via", "at", "note"] {
            said.entry(key).or_insert(Value::Null);
        }
    }
    json!({
        "id": alert.id,
        "patientId": alert.patient_id,
        "event": alert.event,
        "state": alert.state.name(),
        "priority": alert.priority.name(),
        "vital": alert.vital.name(),
        "value": number(alert.value),
        "unit": alert.unit,
        "deviceId": alert.device_id,
        "rule": alert.rule,
        "ruleVersion": alert.rule_version,
        "since": rfc3339(alert.since),
        "raisedAt": rfc3339(alert.raised_at),
        "clearedAt": alert.cleared_since.map(rfc3339),
        "clearedValue": alert.cleared_value.map(number),
        "acknowledged": acknowledged,
        "_links": {
            "self": format!("/api/v1/alerts/{}", alert.id),
            "ack": format!("/api/v1/alerts/{}/ack", alert.id),
            "patient": format!("/api/v1/patients/{}", alert.patient_id),
        },
    })
}

/// Adds what only some devices send: their opinion of the signal, and a context.
fn add_what_was_sent(body: &mut Value, quality: Option<f32>, context: Option<&str>) {
    let Some(body) = body.as_object_mut() else { return };
    if let Some(quality) = quality {
        body.insert("deviceQuality".into(), opinion(quality));
    }
    if let Some(context) = context {
        // Parsed at the door; whatever else it may be, the reading is shown.
        body.insert("context".into(), serde_json::from_str(context).unwrap_or_default());
    }
}

/// A device's opinion with as many digits as it needs: 0.9, and not the float beside it.
pub fn opinion(quality: f32) -> Value {
    number(quality.to_string().parse().unwrap_or_else(|_| quality.into()))
}

/// A reading of a history.
pub fn reading(patient_id: &str, newest: &Newest) -> Value {
    let mut body = json!({
        "patientId": patient_id,
        "deviceId": newest.device_id,
        "vital": newest.vital.name(),
        "value": number(newest.value),
        "unit": newest.vital.unit(),
        "quality": quality(newest.suspect),
        "measuredAt": rfc3339(newest.measured_at),
        "recordedAt": rfc3339(newest.recorded_at),
    });
    add_what_was_sent(&mut body, newest.quality, newest.context.as_deref());
    body
}

/// A patient's state. `now` is what ages are counted to unless a moment is asked for.
pub fn state(patient_id: &str, state: &State, now: DateTime<Utc>) -> Value {
    let moment = state.moment;
    let at = moment.as_of.unwrap_or(now);
    let age = |newest: &Newest| (at - newest.measured_at).num_milliseconds().max(0) as f64 / 1e3;
    let vitals: Map<String, Value> = state
        .vitals
        .iter()
        .map(|newest| {
            let body = json!({
                "value": number(newest.value),
                "unit": newest.vital.unit(),
                "measuredAt": rfc3339(newest.measured_at),
                "recordedAt": rfc3339(newest.recorded_at),
                "deviceId": newest.device_id,
                "quality": quality(newest.suspect),
                "ageSeconds": age(newest).floor() as i64,
            });
            (newest.vital.name().to_owned(), body)
        })
        .collect();
    let record: Value =
        state.record.as_deref().and_then(|r| serde_json::from_str(r).ok()).unwrap_or_default();
    let scale = match record.get("spo2Scale").and_then(Value::as_i64) {
        Some(2) => news2::Scale::Two,
        _ => news2::Scale::One,
    };
    let score = news2::score(
        |vital| {
            let newest = state.vitals.iter().find(|newest| newest.vital == vital)?;
            Some(news2::Input {
                value: newest.value,
                age_seconds: age(newest),
                suspect: newest.suspect,
            })
        },
        scale,
    );
    let base = format!("/api/v1/patients/{patient_id}");
    json!({
        "patientId": patient_id,
        "ward": record.get("ward"),
        "asOf": moment.as_of.map(rfc3339),
        "knownAt": moment.known_at.map(rfc3339),
        "vitals": vitals,
        "alerts": state.alerts.iter().map(alert).collect::<Vec<_>>(),
        "news2": score,
        "_links": {
            "self": base,
            "readings": format!("{base}/readings"),
            "replay": format!("{base}/replay"),
        },
    })
}

/// An answer with an ETag, or 304 when the caller has it already.
///
/// `of` is what the tag is made of: all that the answer says, also what time alone
/// changes. Who keeps an old answer must not be told that a score still holds whose
/// values have become stale since, or that a value is seconds old. Weak, because the same
/// may be written in other bytes.
pub fn tagged(request: &HeaderMap, of: &impl Serialize, body: Value) -> Response {
    let hash = Sha256::digest(serde_json::to_vec(of).unwrap_or_default());
    let tag = format!("W/\"{}\"", URL_SAFE_NO_PAD.encode(&hash[..12]));
    let known = request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|t| t.trim() == "*" || t.trim() == tag));
    let mut response =
        if known { StatusCode::NOT_MODIFIED.into_response() } else { Json(body).into_response() };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    response
}

/// Says that an answer from the projections is older than the log.
pub fn mark_freshness(mut response: Response, fresh: bool) -> Response {
    if !fresh {
        response.headers_mut().insert("vitals-behind", HeaderValue::from_static("true"));
    }
    response
}

/// A place in a list, opaque to the outside, with the log's incarnation.
pub fn cursor(log: &Log, place: &impl Serialize) -> String {
    let place = (log.history().number(), place);
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&place).unwrap_or_default())
}

/// Reads what [`cursor`] made; `link` is the list's own. What was a place in another history
/// of the log would pass over what is new in this one.
pub fn place<T: DeserializeOwned>(log: &Log, cursor: &str, link: &str) -> Result<T, Problem> {
    let text = URL_SAFE_NO_PAD.decode(cursor).ok().filter(|text| !holds_nul(text));
    let read = text.and_then(|text| serde_json::from_slice::<(i64, T)>(&text).ok());
    let (incarnation, place) = read.ok_or_else(foreign_cursor)?;
    if incarnation != log.history().number() {
        let detail = "the log was restored since this cursor was given: begin the list again";
        return Err(log_restored(detail, link));
    }
    Ok(place)
}

/// 409: a place in a history of the log that has ended, and where to go on.
pub fn log_restored(detail: impl Into<String>, first: &str) -> Problem {
    let links = json!({ "first": first });
    Problem::new(StatusCode::CONFLICT, "log_restored", detail).with("_links", links)
}

/// A time of a cursor.
pub fn time(micros: i64) -> Result<DateTime<Utc>, Problem> {
    DateTime::from_timestamp_micros(micros)
        .filter(|time| (1..=9999).contains(&time.year()))
        .ok_or_else(foreign_cursor)
}

fn holds_nul(json: &[u8]) -> bool {
    json.windows(6).any(|text| text == b"\\u0000")
}

fn foreign_cursor() -> Problem {
    Problem::unreadable("invalid_cursor", "the cursor is none of ours: start without one")
}

/// A page of a list.
pub fn list(items: Vec<Value>, next: Option<String>, link: &str, query: &str) -> Value {
    let join = if query.is_empty() { "" } else { "&" };
    let following = next.as_ref().map(|next| format!("{link}?{query}{join}cursor={next}"));
    let this = if query.is_empty() { link.to_owned() } else { format!("{link}?{query}") };
    json!({ "items": items, "next": next, "_links": { "self": this, "next": following } })
}

/// A text as part of a URL's query.
pub fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}
