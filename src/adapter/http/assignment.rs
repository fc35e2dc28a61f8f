//! `PUT /devices/{id}`, `/assign`, `/unassign` and `/reassign`: what is registered of a device,
//! and whom it measures.
//!
//! Guarantees that what is answered is in the log, and that of a reassignment everything is
//! refused here that can be seen before it begins. Does not move readings: a job does.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::corrections::{reason, required, time};
use super::extract::{Json, Optional};
use super::patients::QueryState;
use super::problem::Problem;
use super::reply::Reply;
use super::rules_state::RulesState;
use crate::auth::{Caller, Scope};
use crate::devices::{self, Device, Registration};
use crate::event::{ID_RULE, is_fhir_id};
use crate::intake::AHEAD_SECONDS_MAX;
use crate::jobs::{JobKind, JobRequest};
use crate::log::AppendError;
use crate::record::devices::{DeviceError, assign as assigned, register};
use crate::record::reassign::Wanted;
use crate::vital::{UnknownVital, Vital};
use crate::wire::{self, DeviceInRegistry, JobStarted, Number};

/// What it takes to say whom a device measures: who may write patients' records.
const SCOPE: Scope = Scope::PatientsManage;
/// Ids under which a device also sends.
pub const ALIASES_PER_DEVICE_MAX: usize = 16;
/// The longest name of a model.
const MODEL_CHARS_MAX: usize = 200;
/// The shortest and the longest time between two readings, as in a patient's record.
const INTERVAL_SECONDS: std::ops::RangeInclusive<f64> = 0.01..=604_800.0;

/// `PUT /devices/{id}`: all that is registered of it.
pub async fn put(
    State(questions): State<QueryState>,
    caller: Caller,
    Path(device_id): Path<String>,
    Json(body): Json<wire::DeviceRegistration>,
) -> Result<Reply<DeviceInRegistry>, Problem> {
    caller.may_administer(SCOPE)?;
    id(&device_id, "")?;
    let registration = registration(body)?;
    let (of, by) = ((&*caller.tenant, &*device_id), (&*caller.subject, questions.clock.now()));
    let device = register(&questions.log, of, by, registration).await?;
    Reply::ok(&shown(device_id, &device))
}

/// `POST /devices/{id}/assign`: from a moment on it measures a patient.
pub async fn assign(
    State(questions): State<QueryState>,
    caller: Caller,
    Path(device_id): Path<String>,
    Json(body): Json<wire::NewAssignment>,
) -> Result<Reply<DeviceInRegistry>, Problem> {
    caller.may_administer(SCOPE)?;
    let patient_id = required(body.patient_id, "/patientId")?;
    id(&patient_id, "/patientId")?;
    change(questions, caller, device_id, (Some(patient_id), body.from)).await
}

/// `POST /devices/{id}/unassign`: from a moment on it measures nobody.
pub async fn unassign(
    State(questions): State<QueryState>,
    caller: Caller,
    Path(device_id): Path<String>,
    Optional(body): Optional<wire::EndedAssignment>,
) -> Result<Reply<DeviceInRegistry>, Problem> {
    caller.may_administer(SCOPE)?;
    change(questions, caller, device_id, (None, body.from)).await
}

async fn change(
    questions: QueryState,
    caller: Caller,
    device_id: String,
    (patient_id, from): (Option<String>, Option<String>),
) -> Result<Reply<DeviceInRegistry>, Problem> {
    id(&device_id, "")?;
    let now = questions.clock.now();
    let from = from.map_or(Ok(now), |from| past(&from, "/from", now))?;
    let (of, at) = ((&*caller.tenant, &*device_id), (patient_id.as_deref(), from));
    let device = assigned(&questions.log, of, &caller.subject, at).await?;
    Reply::ok(&shown(device_id, &device))
}

/// `POST /devices/{id}/reassign`: what it measured was another patient's. 202, and a job.
pub async fn reassign(
    State(state): State<RulesState>,
    caller: Caller,
    Path(device_id): Path<String>,
    Json(body): Json<wire::Reassignment>,
) -> Result<Reply<JobStarted>, Problem> {
    caller.may_administer(Scope::ReadingsCorrect)?;
    id(&device_id, "")?;
    let now = state.clock.now();
    let from = past(&required(body.from, "/from")?, "/from", now)?;
    let to = past(&required(body.to, "/to")?, "/to", now)?;
    if from >= to {
        let detail = "from is not before to: nothing was measured in that time";
        return Err(Problem::invalid("invalid_range", "/to", detail));
    }
    let patient_id = required(body.patient_id, "/patientId")?;
    id(&patient_id, "/patientId")?;
    let (reason, by) = (reason(body.reason)?, caller.subject.clone());
    state.log.reload_archived().await?;
    if let Some(span) = state.log.archived().within(from, to) {
        let detail = format!(
            "{span} is archived and takes no corrections: have it brought back with vitals import \
             --format parquet {}, and ask again",
            span.file_name()
        );
        return Err(Problem::new(StatusCode::GONE, "month_archived", detail)
            .with(|document| document.month = Some(span.to_string())));
    }
    let ids = std::slice::from_ref(&device_id);
    let mut found = devices::find(&state.log, &caller.tenant, ids, None).await?;
    let device = found.remove(&device_id).unwrap_or_default();
    if let Some(owner) = device.alias_of {
        return Err(DeviceError::IsAlias(owner).into());
    }
    if let Some(one) = device.under_way() {
        let detail = format!("the reassignment {} of this device is under way: let it end", one.id);
        return Err(Problem::new(StatusCode::CONFLICT, "reassignment_under_way", detail));
    }
    let argument = Wanted { device_id, patient_id, from, to, reason, by }.argument()?;
    let (tenant, by) = (&*caller.tenant, &*caller.subject);
    let wanted = JobRequest { tenant, kind: JobKind::Reassign, argument: &argument, by };
    let id: Uuid = state.jobs.submit(wanted).await?;
    let place = format!("/api/v1/jobs/{id}");
    let body = JobStarted { id, links: [("self", place.clone())].into() };
    Ok(Reply::new(StatusCode::ACCEPTED, &body)?.at(&place))
}

fn id(id: &str, pointer: &str) -> Result<(), Problem> {
    if is_fhir_id(id) {
        return Ok(());
    }
    Err(Problem::invalid("invalid_id", pointer, format!("an id {ID_RULE}")))
}

/// A time that is not in the future, as far as clocks agree.
fn past(text: &str, pointer: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, Problem> {
    let time = time(text, pointer)?;
    if time < DateTime::UNIX_EPOCH || time > now + TimeDelta::seconds(AHEAD_SECONDS_MAX) {
        let detail = format!("\"{text}\" lies before 1970 or in the future");
        return Err(Problem::invalid("invalid_time", pointer, detail));
    }
    Ok(time)
}

fn registration(body: wire::DeviceRegistration) -> Result<Registration, Problem> {
    let wire::DeviceRegistration { model, vitals, interval_seconds, aliases } = body;
    let is_model = |model: &String| {
        let fits = (1..=MODEL_CHARS_MAX).contains(&model.trim().chars().count());
        fits && !model.chars().any(char::is_control)
    };
    if model.as_ref().is_some_and(|model| !is_model(model)) {
        let detail = format!("model is a text of 1 to {MODEL_CHARS_MAX} printable characters");
        return Err(Problem::invalid("invalid_text", "/model", detail));
    }
    if interval_seconds.is_some_and(|seconds| !INTERVAL_SECONDS.contains(&seconds)) {
        let (least, most) = (INTERVAL_SECONDS.start(), INTERVAL_SECONDS.end());
        let detail = format!("intervalSeconds is a number of {least} to {most}");
        return Err(Problem::invalid("invalid_interval", "/intervalSeconds", detail));
    }
    let vital = |(n, name): (usize, String)| {
        name.parse().map_err(|error: UnknownVital| {
            Problem::invalid("unknown_vital", &format!("/vitals/{n}"), error.to_string())
        })
    };
    let vitals = vitals.map(|names| {
        let mut vitals =
            names.into_iter().enumerate().map(vital).collect::<Result<Vec<Vital>, _>>()?;
        vitals.sort_unstable();
        vitals.dedup();
        Ok::<_, Problem>(vitals)
    });
    let mut aliases = aliases.unwrap_or_default();
    if aliases.len() > ALIASES_PER_DEVICE_MAX {
        let detail = format!("{} aliases, {ALIASES_PER_DEVICE_MAX} at most", aliases.len());
        return Err(Problem::invalid("too_many_aliases", "/aliases", detail));
    }
    for (n, alias) in aliases.iter().enumerate() {
        id(alias, &format!("/aliases/{n}"))?;
    }
    aliases.sort_unstable();
    aliases.dedup();
    Ok(Registration { model, vitals: vitals.transpose()?, interval_seconds, aliases })
}

fn shown(device_id: String, device: &Device) -> DeviceInRegistry {
    let place = format!("/api/v1/devices/{device_id}");
    DeviceInRegistry {
        device_id: device_id.into(),
        registered: registered(device),
        assignments: assignments(device).collect(),
        links: [("self", place)].into(),
    }
}

/// What is registered, as it is shown.
pub(super) fn registered(device: &Device) -> Option<wire::RegisteredDevice> {
    let devices::Registered { registration, by, at } = device.registered.clone()?;
    let Registration { model, vitals, interval_seconds, aliases } = registration;
    let interval_seconds = interval_seconds.map(Number);
    Some(wire::RegisteredDevice { model, vitals, interval_seconds, aliases, by, at: at.into() })
}

/// Where it was and is, as that is shown.
pub(super) fn assignments(device: &Device) -> impl Iterator<Item = wire::Assignment> {
    device.assignments().into_iter().map(|one| wire::Assignment {
        patient_id: one.patient_id.into(),
        from: one.from.into(),
        to: one.to.map(Into::into),
        by: one.by,
        recorded_at: one.recorded_at.into(),
    })
}

impl From<DeviceError> for Problem {
    fn from(error: DeviceError) -> Problem {
        let detail = error.to_string();
        let conflict = |code| Problem::new(StatusCode::CONFLICT, code, detail.clone());
        match error {
            DeviceError::Append(AppendError::Archived) => {
                let detail =
                    "the month of this moment is archived, and takes no events: begin later";
                Problem::new(StatusCode::GONE, "month_archived", detail)
            }
            DeviceError::Append(error) => error.into(),
            DeviceError::IsAlias(_) => conflict("device_is_alias"),
            DeviceError::AliasTaken(_) => conflict("alias_taken")
                .with(|document| document.pointer = Some("/aliases".to_owned())),
            DeviceError::TooMany => conflict("too_many_changes"),
        }
    }
}
