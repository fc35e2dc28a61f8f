//! The state of a patient, now or at any moment.
//!
//! Guarantees that a question with `known_at` has one answer for ever: what was
//! being written at that moment is waited for, and nothing can be recorded at or before
//! it afterwards. A `known_at` still to come is answered as of the present, and the
//! answer says so. Does not judge: NEWS2 and the age of values are for the caller, who
//! knows the time.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

use super::alerts::Alert;
use super::moment::Moment;
use super::reach::{Reach, ReadingsNeeded, Unanswered};
use super::{AnswerPart, BEGIN_SNAPSHOT, END_OF_TIME, fresh};
use crate::log::Log;
use crate::projection::begin_snapshot;
use crate::vital::Vital;

/// The newest reading of a vital.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct Newest {
    /// Which.
    #[sqlx(try_from = "String")]
    pub vital: Vital,
    /// In the canonical unit.
    pub value: f64,
    /// The device's opinion.
    pub quality: Option<f32>,
    /// Implausible.
    pub suspect: bool,
    /// When it was measured.
    #[sqlx(rename = "occurred_at")]
    pub measured_at: DateTime<Utc>,
    /// When we learned it.
    pub recorded_at: DateTime<Utc>,
    /// What measured it.
    #[sqlx(rename = "source_id")]
    pub device_id: String,
    /// What was sent with it, as JSON text. Read for histories only.
    #[sqlx(default)]
    pub context: Option<String>,
}

/// A patient's state.
#[derive(Clone, Debug, PartialEq)]
pub struct PatientState {
    /// In the order of the contract's table.
    pub vitals: Vec<Newest>,
    /// Those that stand, oldest first.
    pub alerts: Vec<Alert>,
    /// Their record, as JSON text.
    pub record: Option<String>,
    /// Whether the projections held everything when they were asked.
    pub fresh: bool,
    /// Of which moment. `known_at` is settled: never later than the present.
    pub moment: Moment,
}

/// The state of a patient, or `None` when nobody ever heard of them. If a device is
/// named, by that device alone: then the log is asked, which remembers every one's.
pub async fn state(
    log: &Log,
    tenant: &str,
    patient_id: &str,
    asked: Moment,
    device: Option<&str>,
) -> Result<Option<PatientState>, Unanswered> {
    if asked == Moment::default() && device.is_none() {
        return Ok(present(log, tenant, patient_id).await?);
    }
    let shard = log.shard_of(tenant, patient_id);
    let reach = |moment| {
        let what = ReadingsNeeded::Newest(moment);
        Reach { tenant, patient_id, vitals: &[], device, what }
    };
    let settling = async { Ok(settled(log, shard, asked).await?) };
    let freshness = async {
        // What was known by a settled moment is in the log, whatever is folded later.
        Ok(asked.known_at.is_some() || fresh(log, &[shard], &[AnswerPart::Said]).await?)
    };
    let before = reach(asked);
    // At once: each is a round trip.
    let (moment, fresh, ()) = tokio::try_join!(settling, freshness, before.check(log))?;
    let mut tx = log.pool().begin_with(BEGIN_SNAPSHOT).await?;
    let state = past(&mut tx, shard, tenant, patient_id, moment, device).await?;
    // Rolled back when it is given back, which is not waited for.
    drop(tx);
    reach(moment).check(log).await?;
    let is_empty = state.vitals.is_empty() && state.alerts.is_empty() && state.record.is_none();
    if is_empty && !is_known(log, tenant, patient_id).await? {
        return Ok(None);
    }
    // The log is never behind itself, but what the rules will say is not in it yet.
    Ok(Some(PatientState { fresh, ..state }))
}

/// The state now, from the projections.
async fn present(
    log: &Log,
    tenant: &str,
    patient_id: &str,
) -> Result<Option<PatientState>, sqlx::Error> {
    let shard = log.shard_of(tenant, patient_id);
    let parts = [AnswerPart::Vitals, AnswerPart::Alerts, AnswerPart::Records];
    let fresh = fresh(log, &[shard], &parts).await?;
    let patient: Option<(Option<String>,)> = sqlx::query_as(
        "select record from patient where shard = $1 and tenant = $2 and patient_id = $3",
    )
    .bind(shard)
    .bind(tenant)
    .bind(patient_id)
    .fetch_optional(log.pool())
    .await?;
    // The directory is folded at leisure; who has values exists all the same.
    if patient.is_none() && !is_known(log, tenant, patient_id).await? {
        return Ok(None);
    }
    let record = patient.and_then(|(record,)| record);
    let mut tx = begin_snapshot(log.pool(), BEGIN_SNAPSHOT, &["alert", "current_vitals"]).await?;
    let (vitals, alerts) = current(&mut tx, shard, tenant, patient_id).await?;
    drop(tx);
    Ok(Some(PatientState { vitals, alerts, record, fresh, moment: Moment::default() }))
}

/// Whether anybody ever heard of a patient. The log knows, and is never behind.
pub async fn is_known(log: &Log, tenant: &str, patient_id: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from series where shard = $1 and tenant = $2 and patient_id = $3) \
             or exists (select from non_reading where shard = $1 and tenant = $2 and patient_id = $3)",
    )
    .bind(log.shard_of(tenant, patient_id))
    .bind(tenant)
    .bind(patient_id)
    .fetch_one(log.pool())
    .await
}

/// The newest reading of one vital, with whether it is fresh; of one device if it is
/// named.
pub async fn newest(
    log: &Log,
    tenant: &str,
    patient_id: &str,
    vital: Vital,
    device: Option<&str>,
) -> Result<Option<(Newest, bool)>, sqlx::Error> {
    let shard = log.shard_of(tenant, patient_id);
    let of_log = async || {
        let mut tx = log.pool().begin_with(BEGIN_SNAPSHOT).await?;
        let moment = Moment::default();
        let state = past(&mut tx, shard, tenant, patient_id, moment, device).await?;
        drop(tx);
        let newest = state.vitals.into_iter().find(|n| n.vital == vital);
        Ok::<_, sqlx::Error>(newest.map(|n| (n, true)))
    };
    if device.is_some() {
        return of_log().await;
    }
    let fresh = fresh(log, &[shard], &[AnswerPart::Vitals]).await?;
    let row: Option<Newest> = sqlx::query_as(
        "select vital::text as vital, value, quality, suspect, occurred_at, recorded_at, source_id \
         from current_vitals \
         where shard = $1 and tenant = $2 and patient_id = $3 and vital = $4::text::vital",
    )
    .bind(shard)
    .bind(tenant)
    .bind(patient_id)
    .bind(vital.name())
    .fetch_optional(log.pool())
    .await?;
    match row {
        // "There is none" must be true, however far behind the table is.
        None if !fresh => of_log().await,
        row => Ok(row.map(|newest| (newest, fresh))),
    }
}

async fn current(
    tx: &mut PgConnection,
    shard: i16,
    tenant: &str,
    patient_id: &str,
) -> Result<(Vec<Newest>, Vec<Alert>), sqlx::Error> {
    let vitals = sqlx::query_as(
        "select vital::text as vital, value, quality, suspect, occurred_at, recorded_at, source_id \
         from current_vitals c \
         where shard = $1 and tenant = $2 and patient_id = $3 order by c.vital",
    )
    .bind(shard)
    .bind(tenant)
    .bind(patient_id)
    .fetch_all(&mut *tx)
    .await?;
    let alerts = sqlx::query_as(
        "select *, vital::text as vital from alert \
         where shard = $1 and tenant = $2 and patient_id = $3 and state = 'active' \
         order by since, id",
    )
    .bind(shard)
    .bind(tenant)
    .bind(patient_id)
    .fetch_all(&mut *tx)
    .await?;
    Ok((vitals, alerts))
}

/// The state at a moment, from the log.
pub(super) async fn past(
    tx: &mut PgConnection,
    shard: i16,
    tenant: &str,
    patient_id: &str,
    moment: Moment,
    device: Option<&str>,
) -> Result<PatientState, sqlx::Error> {
    let as_of = moment.as_of.unwrap_or(END_OF_TIME);
    let known_at = moment.known_at.unwrap_or(END_OF_TIME);
    let ask = |sql: &'static str| {
        let query = sqlx::query(sql).bind(shard).bind(tenant).bind(patient_id);
        query.bind(as_of).bind(known_at).bind(device)
    };
    let mut rows = ask(include_str!("state_newest.sql")).fetch_all(&mut *tx).await?;
    let mut retracted = rows.iter().map(|row| row.try_get::<bool, _>("retracted"));
    if retracted.any(|retracted| retracted.unwrap_or(true)) {
        rows = ask(include_str!("state_as_of.sql")).fetch_all(&mut *tx).await?;
    }
    let vitals = rows.iter().map(Newest::from_row).collect::<Result<_, _>>()?;
    let mut rows = sqlx::query(include_str!("alerts_as_of.sql"))
        .bind(shard)
        .bind(tenant)
        .bind(patient_id)
        .bind(as_of)
        .bind(known_at)
        .fetch_all(&mut *tx)
        .await?;
    // The record comes last, and has no id.
    let is_record = |row: &PgRow| row.try_get::<Option<Uuid>, _>("id").is_ok_and(|id| id.is_none());
    let record = match rows.pop_if(|row| is_record(row)) {
        Some(row) => row.try_get("record")?,
        None => None,
    };
    let mut alerts: Vec<Alert> = rows.iter().map(Alert::from_row).collect::<Result<_, _>>()?;
    alerts.retain(|alert| device.is_none_or(|only| only == alert.device_id));
    // The log is never behind itself.
    Ok(PatientState { vitals, alerts, record, fresh: true, moment })
}

/// The moment, such that its answer lasts.
pub(super) async fn settled(log: &Log, shard: i16, moment: Moment) -> Result<Moment, sqlx::Error> {
    let known_at = match moment.known_at {
        Some(known_at) => Some(log.settle(shard, known_at).await?),
        None => None,
    };
    Ok(Moment { known_at, ..moment })
}
