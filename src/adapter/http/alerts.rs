//! `/alerts`: what stands, what stood, and who has answered. Answering is in [`super::ack`].

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::extract::{Id, Params};
use super::patients::{Questions, limit};
use super::problem::Problem;
use super::{shadow, wire};
use crate::auth::Caller;
use crate::clock::rfc3339;
use crate::event::{ID_RULE, is_fhir_id, number};
use crate::query::alerts::{self, Alert, Filter, Standing};

/// Alerts of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

/// Whose alerts: of rules that page, or of those on trial.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OfMode {
    #[default]
    Active,
    Shadow,
}

impl OfMode {
    /// How such an alert can stand.
    fn states(self) -> impl Iterator<Item = Standing> {
        let all = Standing::ALL.into_iter();
        all.filter(move |state| self == OfMode::Shadow || *state != Standing::Ended)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListParams {
    #[serde(default)]
    mode: OfMode,
    state: Option<String>,
    patient_id: Option<String>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// `GET /alerts`, newest first.
pub async fn list(
    State(questions): State<Questions>,
    caller: Caller,
    Params(params): Params<ListParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may("alerts:read")?;
    let state = params.state.as_deref().map(|name| {
        params.mode.states().find(|state| state.name() == name).ok_or_else(|| {
            let states: Vec<&str> = params.mode.states().map(Standing::name).collect();
            let detail = format!("state is one of {}", states.join(", "));
            Problem::unreadable("invalid_state", detail)
        })
    });
    let state = state.transpose()?;
    if let Some(patient_id) = &params.patient_id {
        if !is_fhir_id(patient_id) {
            let detail = format!("patientId {ID_RULE}");
            return Err(Problem::unreadable("invalid_id", detail));
        }
        caller.may_see(patient_id)?;
    }
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let cursor = |cursor| wire::place(&questions.log, cursor, "/api/v1/alerts");
    let after: Option<(i64, Uuid)> = params.cursor.as_deref().map(cursor).transpose()?;
    let after = after.map(|(micros, id)| wire::time(micros).map(|at| (at, id))).transpose()?;
    let filter = Filter {
        state,
        patient_id: params.patient_id.clone().or_else(|| caller.patient.clone()),
        after,
        limit,
    };
    let (log, tenant) = (&questions.log, &*caller.tenant);
    let (alerts, fresh) = match params.mode {
        OfMode::Active => alerts::list(log, tenant, &filter).await?,
        OfMode::Shadow => shadow::alerts(&questions, tenant, &filter).await?,
    };
    let (shown, mode): (fn(&Alert) -> Value, _) = match params.mode {
        OfMode::Active => (wire::alert, None),
        OfMode::Shadow => (shadow::shown, Some("shadow".to_owned())),
    };
    let next = (alerts.len() as i64 == limit).then(|| alerts.last()).flatten();
    let next =
        next.map(|last| wire::cursor(&questions.log, &(last.since.timestamp_micros(), last.id)));
    let items: Vec<Value> =
        alerts.iter().filter(|alert| caller.sees_device(&alert.device_id)).map(shown).collect();
    let query = [("mode", &mode), ("state", &params.state), ("patientId", &params.patient_id)]
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", wire::encode(value.as_ref()?))))
        .collect::<Vec<_>>()
        .join("&");
    let body = wire::list(items, next, "/api/v1/alerts", &query);
    Ok(wire::mark_freshness(wire::tagged(&headers, &body.clone(), body), fresh))
}

/// An alert that the caller may see.
pub async fn find(questions: &Questions, caller: &Caller, id: Uuid) -> Result<Alert, Problem> {
    let alert = alerts::get(&questions.log, &caller.tenant, id)
        .await?
        // What a narrow token may not see does not exist for it.
        .filter(|alert| caller.sees_device(&alert.device_id))
        .filter(|alert| caller.may_see(&alert.patient_id).is_ok())
        .ok_or_else(|| Problem::not_found("alert"))?;
    Ok(alert)
}

/// `GET /alerts/{id}`, with the reading that raised it.
pub async fn get(
    State(questions): State<Questions>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may("alerts:read")?;
    let alert = find(&questions, &caller, id).await?;
    let mut body = wire::alert(&alert);
    body["readings"] = json!([{
        "patientId": alert.patient_id,
        "deviceId": alert.device_id,
        "vital": alert.vital.name(),
        "value": number(alert.value),
        "unit": alert.unit,
        "measuredAt": rfc3339(alert.since),
    }]);
    let history = alerts::said(&questions.log, &caller.tenant, &alert).await?;
    let body = explained(body, &history);
    Ok(wire::tagged(&headers, &body.clone(), body))
}

/// What the alert is made of, and everything that was said of it.
fn explained(mut body: Value, history: &[alerts::Said]) -> Value {
    // The last one: a correction may have put it on another reading.
    let newest = history.iter().rev().find(|said| said.data.get("because").is_some());
    body["because"] = newest.map(|said| said.data["because"].clone()).unwrap_or_default();
    body["history"] = history
        .iter()
        .map(|said| {
            let of = |key: &str| said.data.get(key).cloned().unwrap_or_default();
            let who = |key: &str| match said.data.get("acknowledged") {
                Some(acknowledged) => acknowledged.get(key).cloned().unwrap_or_default(),
                None => of(key),
            };
            json!({
                "type": said.kind,
                "state": of("state"),
                "value": of("value"),
                "deviceId": of("deviceId"),
                "measuredAt": of("measuredAt"),
                "silentDevice": of("silentDevice"),
                "rule": of("rule"),
                "ruleVersion": of("ruleVersion"),
                "by": who("by"),
                "subject": who("subject"),
                "via": who("via"),
                "silencedBy": of("silencedBy"),
                "at": rfc3339(said.at),
                "recordedAt": rfc3339(said.recorded_at),
            })
        })
        .collect();
    body
}
