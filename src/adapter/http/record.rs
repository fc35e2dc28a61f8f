//! `/patients/{patient_id}/record`: who somebody is, where they lie, and what steers their
//! alarms.
//!
//! Guarantees that what steers alarms is never lost in silence. `PUT` says the whole
//! record: it replaces what is there, and is refused when it leaves out a field that
//! steers alarms and is set; null removes one. `PATCH` says a part: what it leaves out
//! stays, null removes, and `limits`, `devices` and `extra` are merged by their members,
//! each of them taken whole. Both refuse a key that is not known, at any depth, but below
//! `extra`.

mod fields;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::extract::{Json, PatientId};
use super::patients::QueryState;
use super::problem::Problem;
use super::reply::Reply;
use crate::auth::{Caller, Scope};
use crate::query::records::{self, PatientRecord};
use crate::record::register;
use crate::wire::{Changed, RecordOf};

/// What it takes to write a record: who may switch alarms off.
const SCOPE: Scope = Scope::PatientsManage;
/// The largest record.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// What decides which rules are for a patient, and at which values they raise.
const STEERING: [&str; 4] = ["ward", "birthDate", "spo2Scale", "limits"];
/// Fields that a `PATCH` merges by their members.
const MERGED: [&str; 3] = ["limits", "devices", "extra"];
/// What an answer adds to a record, and what may so be sent back with it.
const ADDED: [&str; 3] = ["patientId", "_changed", "_links"];

/// `GET /patients/{patient_id}/record`
pub async fn get(
    State(questions): State<QueryState>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    headers: HeaderMap,
) -> Result<Reply<RecordOf>, Problem> {
    caller.may(Scope::VitalsRead)?;
    caller.may_see(&patient_id)?;
    if caller.device.is_some() {
        let detail = "the token is for one device, and a record is a patient's";
        return Err(Problem::forbidden("outside_token", detail));
    }
    let found = records::get(&questions.log, &caller.tenant, &patient_id).await?;
    let record = found.ok_or_else(|| Problem::not_found("patient"))?;
    Reply::tagged(&headers, &shown(patient_id, record))
}

/// `PUT /patients/{patient_id}/record`, also `PUT /patients/{patient_id}`: the whole record.
pub async fn put(
    State(questions): State<QueryState>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    Json(wanted): Json<Map<String, Value>>,
) -> Result<Reply<RecordOf>, Problem> {
    change(questions, caller, patient_id, wanted, replaced).await
}

/// `PATCH /patients/{patient_id}/record`: a part of it.
pub async fn patch(
    State(questions): State<QueryState>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    Json(wanted): Json<Map<String, Value>>,
) -> Result<Reply<RecordOf>, Problem> {
    change(questions, caller, patient_id, wanted, |before, wanted| Ok(merged(before, wanted))).await
}

type Fields = Map<String, Value>;

async fn change(
    QueryState { log, clock, .. }: QueryState,
    caller: Caller,
    patient_id: String,
    mut wanted: Fields,
    made: fn(&Fields, Fields) -> Result<Fields, Problem>,
) -> Result<Reply<RecordOf>, Problem> {
    caller.may_in_wards(SCOPE)?;
    let wards = caller.wards.of(SCOPE);
    if wanted.get("patientId").is_some_and(|id| *id != *patient_id) {
        let detail = "this is another patient's record: its patientId is not that of the path";
        return Err(Problem::invalid("invalid_id", "/patientId", detail));
    }
    wanted.retain(|key, _| !ADDED.contains(&&**key));
    let now = clock.now();
    fields::check(&wanted, now)?;
    let patient = (&*caller.tenant, &*patient_id);
    let record = register::change(&log, patient, (&caller.subject, now), |before| {
        // Who was moved since they were let in is somebody else's to write about.
        if wards.is_some_and(|wards| !lies_in(before, &wards)) {
            return Err(Problem::not_found("patient"));
        }
        let fields = made(before, wanted)?;
        check_size(&fields)?;
        Ok::<_, Problem>(fields)
    });
    let record = record.await?;
    Reply::ok(&shown(patient_id, record))
}

fn lies_in(record: &Fields, wards: &[String]) -> bool {
    let ward = record.get("ward").and_then(Value::as_str);
    ward.is_some_and(|ward| wards.iter().any(|of| of == ward))
}

fn replaced(before: &Fields, wanted: Fields) -> Result<Fields, Problem> {
    let lost: Vec<&'static str> = STEERING
        .into_iter()
        .filter(|key| before.contains_key(*key) && !wanted.contains_key(*key))
        .collect();
    if lost.is_empty() {
        return Ok(merged(&Map::new(), wanted));
    }
    let detail = format!(
        "PUT is the whole record, and this one leaves out {}, which steers the patient's alarms: \
         say it, or null to remove it, or change a part of the record by PATCH",
        lost.join(", ")
    );
    Err(Problem::invalid("would_erase", "", detail).with(|document| document.erases = Some(lost)))
}

fn merged(before: &Fields, wanted: Fields) -> Fields {
    let mut fields = before.clone();
    for (key, value) in wanted {
        let value = match value {
            Value::Object(members) if MERGED.contains(&&*key) => {
                let kept = fields.get(&key).and_then(Value::as_object).cloned();
                let mut kept = kept.unwrap_or_default();
                kept.extend(members);
                kept.retain(|_, member| !member.is_null());
                if kept.is_empty() { Value::Null } else { Value::Object(kept) }
            }
            value => value,
        };
        fields.insert(key, value);
    }
    fields.retain(|_, value| !value.is_null());
    fields
}

fn check_size(fields: &Fields) -> Result<(), Problem> {
    let bytes = serde_json::to_string(fields).map_or(usize::MAX, |text| text.len());
    if bytes <= RECORD_BYTES_MAX {
        return Ok(());
    }
    let detail = format!("the record has {bytes} bytes, {RECORD_BYTES_MAX} at most");
    Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "record_too_large", detail))
}

fn shown(patient_id: String, record: PatientRecord) -> RecordOf {
    let patient = format!("/api/v1/patients/{patient_id}");
    RecordOf {
        patient_id: patient_id.into(),
        fields: record.fields,
        changed: record.changed.map(|(by, at)| Changed { by, at: at.into() }),
        links: [("self", format!("{patient}/record")), ("patient", patient)].into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn put_replaces_and_loses_nothing_that_steers_alarms_unsaid() {
        let before = fields(json!({ "ward": "4B", "bed": "3", "limits": { "spo2_low": 88 } }));
        for wanted in [json!({}), json!({ "ward": "4B" }), json!({ "limits": {}, "bed": "4" })] {
            assert!(replaced(&before, fields(wanted.clone())).is_err(), "{wanted}");
        }
        let said = json!({ "ward": "5A", "limits": null });
        assert_eq!(replaced(&before, fields(said)).unwrap(), fields(json!({ "ward": "5A" })));
        let other = json!({ "ward": "4B", "limits": { "spo2_high": 100, "spo2_low": null } });
        let expected = json!({ "ward": "4B", "limits": { "spo2_high": 100 } });
        assert_eq!(replaced(&before, fields(other)).unwrap(), fields(expected));
        assert_eq!(replaced(&Map::new(), Map::new()).unwrap(), Map::new());
    }

    #[test]
    fn patch_changes_what_it_names() {
        let before = json!({
            "ward": "4B", "bed": "3",
            "limits": { "spo2_low": { "value": 88, "until": "2026-01-01T00:00:00Z" }, "heart_rate_high": 140 },
        });
        let check = |patch: Value, expected: Value| {
            assert_eq!(merged(&fields(before.clone()), fields(patch)), fields(expected));
        };
        check(json!({}), before.clone());
        // A limit is one thing: no end of an older one stays with it.
        check(
            json!({ "bed": null, "limits": { "spo2_low": { "value": 90 } } }),
            json!({ "ward": "4B", "limits": { "spo2_low": { "value": 90 }, "heart_rate_high": 140 } }),
        );
        let none = json!({ "limits": { "spo2_low": null, "heart_rate_high": null } });
        check(none, json!({ "ward": "4B", "bed": "3" }));
        check(json!({ "limits": null }), json!({ "ward": "4B", "bed": "3" }));
    }
}
