//! `/silences`: pages held back, by whom, why, until when, and which.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use chrono::TimeDelta;
use uuid::Uuid;

use super::extract::{Id, Json};
use super::problem::Problem;
use super::reply::Reply;
use super::rules_state::RulesState;
use super::to_wire;
use crate::auth::wards::WARD_CHARS_MAX;
use crate::auth::{Caller, Scope};
use crate::event::{ID_RULE, is_fhir_id};
use crate::rules::registry::Silence;
use crate::rules::silences::{self, NoEffect, SilenceError};
use crate::wire::{self, HeldBack, NewSilence, Page, SilenceReceipt};

/// The longest silence.
const SILENCE_HOURS_MAX: i64 = 24;
/// Why.
const REASON_CHARS_MAX: usize = 1_000;

/// `POST /silences`
pub async fn create(
    State(rules_state): State<RulesState>,
    caller: Caller,
    Json(wanted): Json<NewSilence>,
) -> Result<Reply<wire::Silence>, Problem> {
    caller.may_administer(Scope::AlertsAck)?;
    let now = rules_state.clock.now();
    check(&wanted, now)?;
    let silence = Silence {
        id: Uuid::now_v7(),
        rule: wanted.rule,
        patient_id: wanted.patient_id,
        ward: wanted.ward,
        by: caller.subject.clone(),
        reason: wanted.reason,
        from: now,
        until: wanted.until.0,
    };
    silences::begin(&rules_state.log, &caller.tenant, &silence, &caller.subject, now).await?;
    let of_patient = silence.patient_id.clone();
    let reply = Reply::new(StatusCode::CREATED, &shown(silence))?;
    Ok(match of_patient {
        Some(patient_id) => reply.about(&patient_id),
        None => reply,
    })
}

fn check(wanted: &NewSilence, now: chrono::DateTime<chrono::Utc>) -> Result<(), Problem> {
    let invalid = |pointer, detail: &str| Err(Problem::invalid("invalid_silence", pointer, detail));
    let reason = wanted.reason.chars().count();
    if wanted.reason.trim().is_empty() || reason > REASON_CHARS_MAX || wanted.reason.contains('\0')
    {
        return invalid("/reason", "reason is a text of 1 to 1000 characters");
    }
    if wanted.until.0 <= now || wanted.until.0 > now + TimeDelta::hours(SILENCE_HOURS_MAX) {
        return invalid("/until", "until lies within the next 24 hours: a silence has an end");
    }
    for (pointer, id) in [("/rule", &wanted.rule), ("/patientId", &wanted.patient_id)] {
        if id.as_ref().is_some_and(|id| !is_fhir_id(id)) {
            return invalid(pointer, &format!("an id {ID_RULE}"));
        }
    }
    let ward = |ward: &String| ward.chars().count() > WARD_CHARS_MAX || ward.contains('\0');
    if wanted.ward.as_ref().is_some_and(ward) {
        return invalid("/ward", "ward is a text of at most 64 characters");
    }
    if wanted.rule.is_none() && wanted.patient_id.is_none() && wanted.ward.is_none() {
        return invalid("", "name a rule, a patientId or a ward: a silence of everything is none");
    }
    Ok(())
}

/// `GET /silences`, newest first.
pub async fn list(
    State(rules_state): State<RulesState>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Reply<Page<wire::Silence>>, Problem> {
    caller.may_administer(Scope::AlertsAck)?;
    let all = silences::all(&rules_state.log, &caller.tenant).await?;
    let items = all.into_iter().map(shown).collect();
    Reply::tagged(&headers, &Page::new(items, None, "/api/v1/silences", ""))
}

/// `GET /silences/{id}`: the receipt, with what it held back.
pub async fn get(
    State(rules_state): State<RulesState>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Reply<SilenceReceipt>, Problem> {
    caller.may_administer(Scope::AlertsAck)?;
    let silence = find(&rules_state, &caller, id).await?;
    Reply::tagged(&headers, &receipt(&rules_state, &caller, silence).await?)
}

/// `DELETE /silences/{id}`: it ends now. The answer is its receipt.
pub async fn end(
    State(rules_state): State<RulesState>,
    caller: Caller,
    Id(id): Id,
) -> Result<Reply<SilenceReceipt>, Problem> {
    caller.may_administer(Scope::AlertsAck)?;
    let now = rules_state.clock.now();
    let mut silence = find(&rules_state, &caller, id).await?;
    if now < silence.until {
        silence.until = now;
        silences::set(&rules_state.log, &caller.tenant, &silence, &caller.subject, now).await?;
    }
    Reply::ok(&receipt(&rules_state, &caller, silence).await?)
}

async fn find(rules_state: &RulesState, caller: &Caller, id: Uuid) -> Result<Silence, Problem> {
    let all = silences::all(&rules_state.log, &caller.tenant).await?;
    all.into_iter().find(|s| s.id == id).ok_or_else(|| Problem::not_found("silence"))
}

async fn receipt(
    rules_state: &RulesState,
    caller: &Caller,
    silence: Silence,
) -> Result<SilenceReceipt, Problem> {
    let held = silences::held_back(&rules_state.log, &caller.tenant, silence.id).await?;
    let item = |(patient_id, data)| {
        let alert = serde_json::from_value(data);
        let alert = alert.map_err(|error| to_wire::unreadable("what was held back", error))?;
        Ok(HeldBack { alert, patient_id: String::into(patient_id) })
    };
    let held_back = held.into_iter().map(item).collect::<Result<_, Problem>>()?;
    Ok(SilenceReceipt { silence: shown(silence), held_back })
}

fn shown(silence: Silence) -> wire::Silence {
    wire::Silence {
        id: silence.id,
        rule: silence.rule,
        patient_id: silence.patient_id,
        ward: silence.ward,
        by: silence.by,
        reason: silence.reason,
        from: silence.from.into(),
        until: silence.until.into(),
        links: [("self", format!("/api/v1/silences/{}", silence.id))].into(),
    }
}

impl From<SilenceError> for Problem {
    fn from(error: SilenceError) -> Problem {
        match error {
            SilenceError::Database(error) => error.into(),
            SilenceError::Append(error) => error.into(),
            SilenceError::Unreadable(error) => error.into(),
            SilenceError::Rules(error) => error.into(),
            SilenceError::NoEffect(NoEffect { pointer, why }) => {
                Problem::invalid("silence_has_no_effect", pointer, why)
            }
        }
    }
}
