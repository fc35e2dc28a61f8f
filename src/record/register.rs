//! Registering: a patient's record is written or changed, in somebody's name.
//!
//! Guarantees that a change is made of the newest record and of no other, whoever changes
//! it at the same moment, and that it counts from its event on: times of one patient's
//! records only grow, also where the clocks of two instances differ. Does not judge what a
//! record says.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};

use crate::event::{Event, PATIENT_REGISTERED};
use crate::log::{AppendError, Log, append, in_turn};
use crate::query::records::{PatientRecord, newest};

/// Changes a record, in somebody's name: what `make` makes of the newest one is the next.
/// One that says the same is no change.
pub async fn change<E: From<AppendError>>(
    log: &Log,
    (tenant, patient_id): (&str, &str),
    (by, now): (&str, DateTime<Utc>),
    make: impl FnOnce(&Map<String, Value>) -> Result<Map<String, Value>, E>,
) -> Result<PatientRecord, E> {
    let failed = |error: sqlx::Error| E::from(error.into());
    let shard = log.shard_of(tenant, patient_id);
    log.ensure_partitions(std::iter::once(now)).await.map_err(failed)?;
    let mut tx = log.pool().begin().await.map_err(failed)?;
    // Who changes the same record at the same moment waits here, and changes this one.
    in_turn(&mut tx, &format!("record/{tenant}/{patient_id}")).await.map_err(failed)?;
    let found = newest(&mut *tx, shard, tenant, patient_id).await.map_err(failed)?;
    let (before, last_at) = found.unzip();
    let fields = make(before.as_ref().map_or(&Map::new(), |record| &record.fields))?;
    if let Some(same) = before.filter(|record| record.fields == fields) {
        return Ok(same);
    }
    let at = last_at.map_or(now, |last| now.max(last + TimeDelta::microseconds(1)));
    let events = [event(tenant, patient_id, &fields, by, at)];
    let appended = append(&mut tx, shard, &events).await?;
    tx.commit().await.map_err(failed)?;
    log.wake().appended(shard, &events);
    Ok(PatientRecord { fields, changed: Some((by.to_owned(), appended.recorded_at)) })
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
    Event::non_reading(PATIENT_REGISTERED, (tenant, patient_id), by, at, data.to_string())
}
