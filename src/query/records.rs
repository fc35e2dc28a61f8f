//! Patients' records: where somebody lies, and what steers their alarms.
//!
//! Guarantees that a change is made of the newest record and of no other, whoever changes
//! it at the same moment, and that it counts from its event on: times of one patient's
//! records only grow, also where the clocks of two instances differ. The log is asked,
//! which is never behind. Does not judge what a record says.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};
use sqlx::PgExecutor;

use super::state::is_known;
use crate::event::{Event, PATIENT_REGISTERED};
use crate::log::{AppendError, Log, append, in_turn};

/// A record, with or without anything in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// What it says.
    pub fields: Map<String, Value>,
    /// Who changed it last, and when the log learned it; nobody if nobody has.
    pub changed: Option<(String, DateTime<Utc>)>,
}

/// A row of [`newest`].
type Row = (Option<String>, String, DateTime<Utc>, DateTime<Utc>);

/// The record of a patient that was ever heard of.
pub async fn get(log: &Log, tenant: &str, patient_id: &str) -> Result<Option<Record>, sqlx::Error> {
    let found = newest(log.pool(), log.shard_of(tenant, patient_id), tenant, patient_id).await?;
    match found {
        Some(row) => Ok(Some(read(row))),
        None if is_known(log, tenant, patient_id).await? => Ok(Some(Record::default())),
        None => Ok(None),
    }
}

/// Changes a record, in somebody's name: what `make` makes of the newest one is the next.
/// One that says the same is no change.
pub async fn change<E: From<AppendError>>(
    log: &Log,
    (tenant, patient_id): (&str, &str),
    (by, now): (&str, DateTime<Utc>),
    make: impl FnOnce(&Map<String, Value>) -> Result<Map<String, Value>, E>,
) -> Result<Record, E> {
    let failed = |error: sqlx::Error| E::from(error.into());
    let shard = log.shard_of(tenant, patient_id);
    log.ensure_partitions(std::iter::once(now)).await.map_err(failed)?;
    let mut tx = log.pool().begin().await.map_err(failed)?;
    // Who changes the same record at the same moment waits here, and changes this one.
    in_turn(&mut tx, &format!("record/{tenant}/{patient_id}")).await.map_err(failed)?;
    let found = newest(&mut *tx, shard, tenant, patient_id).await.map_err(failed)?;
    let last_at = found.as_ref().map(|(_, _, _, occurred_at)| *occurred_at);
    let before = found.map(read);
    let fields = make(before.as_ref().map_or(&Map::new(), |record| &record.fields))?;
    if let Some(same) = before.filter(|record| record.fields == fields) {
        return Ok(same);
    }
    let at = last_at.map_or(now, |last| now.max(last + TimeDelta::microseconds(1)));
    let events = [event(tenant, patient_id, &fields, by, at)];
    let appended = append(&mut tx, shard, &events).await?;
    tx.commit().await.map_err(failed)?;
    log.wake().appended(shard, &events);
    Ok(Record { fields, changed: Some((by.to_owned(), appended.recorded_at)) })
}

/// The newest record, who said so, when the log learned it, and when it was true.
async fn newest(
    asked: impl PgExecutor<'_>,
    shard: i16,
    tenant: &str,
    patient_id: &str,
) -> Result<Option<Row>, sqlx::Error> {
    // By the natural key: what is no reading has no vital.
    sqlx::query_as(
        "select data ->> 'record', source_id, recorded_at, occurred_at from event \
         where shard = $1 and tenant = $2 and patient_id = $3 and vital is null and type = $4 \
         order by occurred_at desc, position desc limit 1",
    )
    .bind(shard)
    .bind(tenant)
    .bind(patient_id)
    .bind(PATIENT_REGISTERED)
    .fetch_optional(asked)
    .await
}

fn read((record, by, recorded_at, _): Row) -> Record {
    let fields = record.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    Record { fields, changed: Some((by, recorded_at)) }
}

fn event(
    tenant: &str,
    patient_id: &str,
    fields: &Map<String, Value>,
    by: &str,
    at: DateTime<Utc>,
) -> Event {
    // Under a key of its own: nothing that a caller writes is read as ours.
    let data = serde_json::json!({ "v": 1, "record": fields });
    Event {
        tenant: tenant.into(),
        patient_id: patient_id.to_owned(),
        kind: PATIENT_REGISTERED.to_owned(),
        vital: None,
        value: None,
        quality: None,
        suspect: false,
        occurred_at: at,
        source_id: by.to_owned(),
        data: Some(data.to_string()),
    }
}
