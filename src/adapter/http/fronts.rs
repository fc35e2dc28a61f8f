//! Answers made for one kind of screen: `GET /wards/{ward}`, `GET /mobile/patients/{patient_id}`.
//!
//! Guarantees that they say what the general answers say, for they are made of them. Asks
//! nothing of its own.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

use super::extract::{Params, PatientId};
use super::patients::{LIMIT_MAX, QueryState};
use super::problem::Problem;
use super::reply::Reply;
use super::{cursor, to_wire, wards};
use crate::auth::wards::WARD_CHARS_MAX;
use crate::auth::{Caller, Scope};
use crate::event::Priority;
use crate::query::moment::Moment;
use crate::query::patients::{self, Listed, PatientFilter};
use crate::query::state as states;
use crate::wire::{self, Current, InBed, Mobile, MobileAlert, MobileScore, MobileValue, Ward};

#[derive(Deserialize)]
pub struct WardParams {
    fields: Option<String>,
}

/// `GET /wards/{ward}`: a ward where nobody lies is an empty one.
pub async fn ward(
    State(questions): State<QueryState>,
    caller: Caller,
    Path(ward): Path<String>,
    Params(params): Params<WardParams>,
    headers: HeaderMap,
) -> Result<Reply<Ward>, Problem> {
    caller.may(Scope::VitalsRead)?;
    if caller.device.is_some() {
        let detail = "the token is for one device, and a ward is of patients";
        return Err(Problem::forbidden("outside_token", detail));
    }
    if ward.chars().count() > WARD_CHARS_MAX || ward.chars().any(char::is_control) {
        let detail = format!("a ward's name has 1 to {WARD_CHARS_MAX} printable characters");
        return Err(Problem::invalid("invalid_ward", "/ward", detail));
    }
    let (seen, all_known) = wards::seen(&questions.log, &caller, Scope::VitalsRead).await?;
    let filter = PatientFilter {
        ward: Some(ward.clone()),
        patient_id: caller.patient.clone(),
        patients: seen,
        after: None,
        limit: LIMIT_MAX,
    };
    let listed = patients::list(&questions.log, &caller.tenant, &filter).await?;
    let is_cut = listed.len() as i64 == LIMIT_MAX;
    let fresh = all_known && listed.iter().all(|patient| patient.state.fresh);
    let now = questions.clock.now();
    let in_bed = |Listed { patient_id, ward, state }: Listed| {
        let record = record(state.record.as_deref());
        let state = wire::State { ward, ..to_wire::state(&patient_id, state, now)? };
        Ok(InBed { bed: text(&record, "bed"), name: text(&record, "name"), state })
    };
    let mut patients = listed.into_iter().map(in_bed).collect::<Result<Vec<_>, Problem>>()?;
    // By id so far, which those stay in who have no bed.
    patients.sort_by_cached_key(|patient| {
        let number = patient.bed.as_ref().and_then(|bed| bed.parse::<u64>().ok());
        (patient.bed.is_none(), number.is_none(), number, patient.bed.clone())
    });
    let escaped = cursor::url_encode(&ward);
    let body = Ward {
        alerts: patients.iter().map(|patient| patient.state.alerts.len()).sum(),
        news2: patients.iter().map(|patient| patient.state.news2.score).max(),
        patients,
        is_cut,
        links: [
            ("self", format!("/api/v1/wards/{escaped}")),
            ("patients", format!("/api/v1/patients?ward={escaped}")),
            ("stream", "/api/v1/stream".to_owned()),
        ]
        .into(),
        ward,
    };
    Ok(Reply::tagged_with(&headers, &body, params.fields.as_deref())?.fresh(fresh))
}

/// `GET /mobile/patients/{patient_id}`
pub async fn mobile(
    State(questions): State<QueryState>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    headers: HeaderMap,
) -> Result<Reply<Mobile>, Problem> {
    caller.may(Scope::VitalsRead)?;
    caller.may_see(&patient_id)?;
    let (tenant, device) = (&caller.tenant, caller.device.as_deref());
    let found = states::state(&questions.log, tenant, &patient_id, Moment::default(), device);
    let state = found.await?.ok_or_else(|| Problem::not_found("patient"))?;
    let (fresh, bed) = (state.fresh, text(&record(state.record.as_deref()), "bed"));
    let state = to_wire::state(&patient_id, state, questions.clock.now())?;
    // The most urgent that nobody has seen; of several the one that has stood longest.
    let first = state
        .alerts
        .iter()
        .min_by_key(|alert| (alert.acknowledged.is_some(), urgency(alert.priority), alert.since.0));
    let body = Mobile {
        patient_id: state.patient_id,
        bed,
        news2: MobileScore {
            score: state.news2.score,
            band: state.news2.band,
            partial: state.news2.partial,
        },
        alerts: state.alerts.len(),
        alert: first.map(|alert| MobileAlert {
            id: alert.id,
            event: alert.event.clone(),
            acknowledged: alert.acknowledged.is_some(),
        }),
        vitals: state
            .vitals
            .into_iter()
            .map(|(vital, Current { value, age_seconds: age, .. })| {
                (vital, MobileValue { value, age })
            })
            .collect(),
    };
    Ok(Reply::tagged(&headers, &body)?.fresh(fresh))
}

fn record(stored: Option<&str>) -> Value {
    stored.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn text(record: &Value, key: &str) -> Option<String> {
    record.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn urgency(priority: Priority) -> u8 {
    match priority {
        Priority::High => 0,
        Priority::Medium => 1,
        Priority::Low => 2,
        Priority::Technical => 3,
    }
}
