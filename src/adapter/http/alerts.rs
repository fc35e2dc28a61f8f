//! `/alerts`: what stands, what stood, and who has answered. Answering is in [`super::ack`].

use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use uuid::Uuid;

use super::extract::{Id, Params};
use super::patients::{QueryState, limit};
use super::problem::Problem;
use super::reply::Reply;
use super::{cursor, shadow, to_wire, wards};
use crate::auth::{Caller, Scope};
use crate::event::{Because, ID_RULE, is_fhir_id};
use crate::query::alerts::{self, Alert, AlertFilter, AlertState};
use crate::query::wards::has as in_wards;
use crate::wire::{self, Acknowledgement, AlertWithHistory, Number, Page, Raising, Time, Via};

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
    fn states(self) -> impl Iterator<Item = AlertState> {
        let all = AlertState::ALL.into_iter();
        all.filter(move |state| self == OfMode::Shadow || *state != AlertState::Ended)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertListParams {
    #[serde(default)]
    mode: OfMode,
    state: Option<String>,
    patient_id: Option<String>,
    limit: Option<i64>,
    cursor: Option<String>,
    fields: Option<String>,
}

/// `GET /alerts`, newest first.
pub async fn list(
    State(questions): State<QueryState>,
    caller: Caller,
    Params(params): Params<AlertListParams>,
    headers: HeaderMap,
) -> Result<Reply<Page<wire::Alert>>, Problem> {
    caller.may(Scope::AlertsRead)?;
    let state = params.state.as_deref().map(|name| {
        params.mode.states().find(|state| state.name() == name).ok_or_else(|| {
            let states: Vec<&str> = params.mode.states().map(AlertState::name).collect();
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
    let place = |cursor| cursor::read(&questions.log, cursor, "/api/v1/alerts");
    let after: Option<(i64, Uuid)> = params.cursor.as_deref().map(place).transpose()?;
    let after = after.map(|(micros, id)| cursor::time(micros).map(|at| (at, id))).transpose()?;
    let (patients, all_known) = wards::seen(&questions.log, &caller, Scope::AlertsRead).await?;
    let filter = AlertFilter {
        state,
        patients,
        patient_id: params.patient_id.clone().or_else(|| caller.patient.clone()),
        after,
        limit,
    };
    let (log, tenant) = (&questions.log, &*caller.tenant);
    let (alerts, fresh) = match params.mode {
        OfMode::Active => alerts::list(log, tenant, &filter).await?,
        OfMode::Shadow => shadow::alerts(&questions, tenant, &filter).await?,
    };
    let (shown, mode): (fn(&Alert) -> _, _) = match params.mode {
        OfMode::Active => (to_wire::alert, None),
        OfMode::Shadow => (shadow::shown, Some("shadow".to_owned())),
    };
    let next = cursor::next(log, &alerts, limit, |last| (last.since.timestamp_micros(), last.id));
    let seen = alerts.iter().filter(|alert| caller.sees_device(&alert.device_id));
    let items = seen.map(shown).collect::<Result<Vec<_>, Problem>>()?;
    let query = [
        ("mode", &mode),
        ("state", &params.state),
        ("patientId", &params.patient_id),
        ("fields", &params.fields),
    ];
    let query = query
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", cursor::url_encode(value.as_ref()?))))
        .collect::<Vec<_>>()
        .join("&");
    let page = Page::new(items, next, "/api/v1/alerts", &query);
    let reply = Reply::tagged_with(&headers, &page, params.fields.as_deref())?;
    Ok(reply.fresh(fresh && all_known).next(page.links.next.as_ref()))
}

/// An alert that the caller may see who asks for it by this scope.
pub async fn find(
    questions: &QueryState,
    caller: &Caller,
    scope: Scope,
    id: Uuid,
) -> Result<Alert, Problem> {
    let alert = alerts::get(&questions.log, &caller.tenant, id)
        .await?
        // What a narrow token may not see does not exist for it.
        .filter(|alert| caller.sees_device(&alert.device_id))
        .filter(|alert| caller.may_see(&alert.patient_id).is_ok())
        .ok_or_else(|| Problem::not_found("alert"))?;
    if let Some(wards) = caller.wards.of(scope)
        && !in_wards(&questions.log, &caller.tenant, &alert.patient_id, &wards).await?
    {
        return Err(Problem::not_found("alert"));
    }
    Ok(alert)
}

/// `GET /alerts/{id}`, with the reading that raised it.
pub async fn get(
    State(questions): State<QueryState>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Reply<AlertWithHistory>, Problem> {
    caller.may(Scope::AlertsRead)?;
    let alert = find(&questions, &caller, Scope::AlertsRead, id).await?;
    let history = alerts::said(&questions.log, &caller.tenant, &alert).await?;
    let mut because = None;
    let history = history.into_iter().map(|said| said_of(said, &mut because));
    let body = AlertWithHistory {
        alert: to_wire::alert(&alert)?,
        history: history.collect::<Result<_, Problem>>()?,
        readings: vec![Raising {
            patient_id: alert.patient_id.into(),
            device_id: alert.device_id.into(),
            vital: alert.vital,
            value: Number(alert.value),
            unit: alert.unit.into(),
            measured_at: alert.since.into(),
        }],
        because,
    };
    Ok(Reply::tagged(&headers, &body)?.about(body.alert.patient_id.as_ref()))
}

/// What an event says of an alert, of whichever type it is.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AlertData {
    state: Option<String>,
    value: Option<Number>,
    device_id: Option<String>,
    measured_at: Option<Time>,
    silent_device: Option<String>,
    rule: Option<String>,
    rule_version: Option<u32>,
    by: Option<String>,
    subject: Option<String>,
    via: Option<Via>,
    silenced_by: Option<Uuid>,
    acknowledged: Option<Acknowledgement>,
    because: Option<Because>,
}

/// What was said, and what the alert is made of: by the last who says so, for a correction
/// may have put it on another reading.
fn said_of(said: alerts::AlertEvent, because: &mut Option<Because>) -> Result<wire::Said, Problem> {
    let told: AlertData = serde_json::from_value(said.data)
        .map_err(|error| to_wire::unreadable("what was said of an alert", error))?;
    if told.because.is_some() {
        *because = told.because;
    }
    let (by, subject, via) = match told.acknowledged {
        Some(who) => (who.by, who.subject, who.via),
        None => (told.by, told.subject, told.via),
    };
    Ok(wire::Said {
        r#type: said.kind,
        state: told.state,
        value: told.value,
        device_id: told.device_id,
        measured_at: told.measured_at,
        silent_device: told.silent_device,
        rule: told.rule,
        rule_version: told.rule_version,
        by,
        subject,
        via,
        silenced_by: told.silenced_by,
        at: said.at.into(),
        recorded_at: said.recorded_at.into(),
    })
}
