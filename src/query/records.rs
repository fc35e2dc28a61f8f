//! Patients' records, as the log has them: where somebody lies, and what steers their alarms.
//!
//! Guarantees the newest record that is committed: the log is asked, which is never behind.
//! Does not change one, which the room `record` does, and does not judge what it says.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::PgExecutor;

use super::state::is_known;
use crate::event::PATIENT_REGISTERED;
use crate::log::Log;

/// A record, with or without anything in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PatientRecord {
    /// What it says.
    pub fields: Map<String, Value>,
    /// Who changed it last, and when the log learned it; nobody if nobody has.
    pub changed: Option<(String, DateTime<Utc>)>,
}

/// The record of a patient that was ever heard of.
pub async fn get(
    log: &Log,
    tenant: &str,
    patient_id: &str,
) -> Result<Option<PatientRecord>, sqlx::Error> {
    let found = newest(log.pool(), log.shard_of(tenant, patient_id), tenant, patient_id).await?;
    match found {
        Some((record, _)) => Ok(Some(record)),
        None if is_known(log, tenant, patient_id).await? => Ok(Some(PatientRecord::default())),
        None => Ok(None),
    }
}

/// What it says, who said so, when the log learned it, and when it was true.
type Row = (Option<String>, String, DateTime<Utc>, DateTime<Utc>);

/// The newest record, and when it was true.
pub async fn newest(
    asked: impl PgExecutor<'_>,
    shard: i16,
    tenant: &str,
    patient_id: &str,
) -> Result<Option<(PatientRecord, DateTime<Utc>)>, sqlx::Error> {
    let found: Option<Row> = sqlx::query_as(
        "select data ->> 'record', source_id, recorded_at, occurred_at from non_reading \
         where shard = $1 and tenant = $2 and patient_id = $3 and type = $4 \
         order by occurred_at desc, position desc limit 1",
    )
    .bind(shard)
    .bind(tenant)
    .bind(patient_id)
    .bind(PATIENT_REGISTERED)
    .fetch_optional(asked)
    .await?;
    Ok(found.map(|(record, by, recorded_at, occurred_at)| {
        let fields = record.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        (PatientRecord { fields, changed: Some((by, recorded_at)) }, occurred_at)
    }))
}
