//! The directory of patients.
//!
//! Guarantees one order, by id, over all shards, and states that were read in one
//! snapshot with the list; of a moment, states of one settled moment over all pages. Does
//! not know who may see whom beyond the tenant.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::{FromRow, Row};

use super::alerts::Alert;
use super::moment::Moment;
use super::reach::{Reach, ReadingsNeeded, Unanswered};
use super::state::{Newest, PatientState, past};
use super::{AnswerPart, BEGIN_SNAPSHOT, END_OF_TIME, fresh};
use crate::log::Log;
use crate::projection::{SNAPSHOT, begin_snapshot};

/// What the list is made of.
const PARTS: [AnswerPart; 4] =
    [AnswerPart::Vitals, AnswerPart::Alerts, AnswerPart::Records, AnswerPart::Existence];

/// A patient of the list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Their id.
    pub patient_id: String,
    /// Where they lie.
    pub ward: Option<String>,
    /// How they are.
    pub state: PatientState,
}

/// Which patients are wanted.
#[derive(Clone, Debug, Default)]
pub struct PatientFilter {
    /// Only this ward's.
    pub ward: Option<String>,
    /// Only this one, for a token that sees no other.
    pub patient_id: Option<String>,
    /// Only these, if any are named.
    pub patients: Option<Vec<String>>,
    /// Only those after this id.
    pub after: Option<String>,
    /// How many at most.
    pub limit: i64,
}

/// A page of patients with their states.
pub async fn list(
    log: &Log,
    tenant: &str,
    filter: &PatientFilter,
) -> Result<Vec<Listed>, sqlx::Error> {
    let shards: Vec<i16> = log.shards().collect();
    let fresh = fresh(log, &shards, &PARTS).await?;
    let mut tx =
        begin_snapshot(log.pool(), SNAPSHOT, &["alert", "current_vitals", "patient"]).await?;
    let rows: Vec<(String, Option<String>, Option<String>)> = sqlx::query_as(
        "select patient_id, ward, record from patient \
         where shard = any($1) and tenant = $2 \
           and ($3::text is null or ward = $3) and ($4::text is null or patient_id = $4) \
           and ($5::text is null or patient_id > $5) \
           and ($7::text[] is null or patient_id = any($7)) \
         order by patient_id limit $6",
    )
    .bind(&shards)
    .bind(tenant)
    .bind(&filter.ward)
    .bind(&filter.patient_id)
    .bind(&filter.after)
    .bind(filter.limit)
    .bind(&filter.patients)
    .fetch_all(&mut *tx)
    .await?;
    let ids: Vec<&str> = rows.iter().map(|(id, _, _)| &**id).collect();
    let of_ids: Vec<i16> = ids.iter().map(|id| log.shard_of(tenant, id)).collect();
    let vitals = sqlx::query(
        "select c.patient_id, c.vital::text as vital, c.value, c.quality, c.suspect, \
                c.occurred_at, c.recorded_at, c.source_id \
         from unnest($1::smallint[], $3::text[]) as p (shard, patient_id) \
         join current_vitals c on c.shard = p.shard and c.tenant = $2 and c.patient_id = p.patient_id \
         order by c.patient_id, c.vital",
    )
    .bind(&of_ids)
    .bind(tenant)
    .bind(&ids)
    .fetch_all(&mut *tx)
    .await?;
    let alerts: Vec<Alert> = sqlx::query_as(
        "select a.*, a.vital::text as vital \
         from unnest($1::smallint[], $3::text[]) as p (shard, patient_id) \
         join alert a on a.shard = p.shard and a.tenant = $2 and a.patient_id = p.patient_id \
         where a.state = 'active' order by a.since, a.id",
    )
    .bind(&of_ids)
    .bind(tenant)
    .bind(&ids)
    .fetch_all(&mut *tx)
    .await?;
    tx.rollback().await?;

    let mut states: BTreeMap<String, (Vec<Newest>, Vec<Alert>)> = BTreeMap::new();
    for row in &vitals {
        let newest = Newest::from_row(row)?;
        states.entry(row.try_get("patient_id")?).or_default().0.push(newest);
    }
    for alert in alerts {
        states.entry(alert.patient_id.clone()).or_default().1.push(alert);
    }
    let listed = |(patient_id, ward, record): (String, Option<String>, Option<String>)| {
        let (vitals, alerts) = states.remove(&patient_id).unwrap_or_default();
        Listed {
            patient_id,
            ward,
            state: PatientState { vitals, alerts, record, fresh, moment: Moment::default() },
        }
    };
    Ok(rows.into_iter().map(listed).collect())
}

/// A page of the patients of whom anything was known, as they were at a moment, and the
/// moment to which that is settled in all shards: a later page is asked with it.
pub async fn list_at(
    log: &Log,
    tenant: &str,
    filter: &PatientFilter,
    asked: Moment,
) -> Result<(Vec<Listed>, Moment), Unanswered> {
    let shards: Vec<i16> = log.shards().collect();
    // What was known by a settled moment is in the log; what the rules are to say is not yet.
    let parts: &[AnswerPart] = match asked.known_at {
        Some(_) => &[AnswerPart::Existence],
        None => &[AnswerPart::Existence, AnswerPart::Said],
    };
    let fresh = fresh(log, &shards, parts).await?;
    let mut known_at = asked.known_at.unwrap_or(END_OF_TIME);
    for shard in &shards {
        known_at = known_at.min(log.settle(*shard, known_at).await?);
    }
    let moment = Moment { known_at: Some(known_at), ..asked };
    let mut tx = begin_snapshot(log.pool(), BEGIN_SNAPSHOT, &["patient"]).await?;
    let rows: Vec<(i16, String, Option<String>)> =
        sqlx::query_as(include_str!("patients_as_of.sql"))
            .bind(&shards)
            .bind(tenant)
            .bind(moment.as_of.unwrap_or(END_OF_TIME))
            .bind(known_at)
            .bind(&filter.ward)
            .bind(&filter.patient_id)
            .bind(&filter.after)
            .bind(filter.limit)
            .bind(&filter.patients)
            .fetch_all(&mut *tx)
            .await?;
    drop(tx);
    reach_all(log, tenant, &rows, moment).await?;
    let mut listed = Vec::with_capacity(rows.len());
    let mut tx = log.pool().begin_with(BEGIN_SNAPSHOT).await?;
    for (shard, patient_id, _) in &rows {
        let state = past(&mut tx, *shard, tenant, patient_id, moment, None).await?;
        let record = state.record.as_deref().and_then(|r| serde_json::from_str::<Value>(r).ok());
        let ward = record.and_then(|record| Some(record.get("ward")?.as_str()?.to_owned()));
        let state = PatientState { fresh, ..state };
        listed.push(Listed { patient_id: patient_id.clone(), ward, state });
    }
    drop(tx);
    reach_all(log, tenant, &rows, moment).await?;
    Ok((listed, moment))
}

/// Says no when the state of one of them needs what is archived.
async fn reach_all(
    log: &Log,
    tenant: &str,
    rows: &[(i16, String, Option<String>)],
    moment: Moment,
) -> Result<(), Unanswered> {
    for (_, patient_id, _) in rows {
        let what = ReadingsNeeded::Newest(moment);
        Reach { tenant, patient_id, vitals: &[], device: None, what }.check(log).await?;
    }
    Ok(())
}

/// The tenants that have anything in the log, by name. From the log itself: an import is
/// not folded until a server runs.
pub async fn tenants(log: &Log) -> Result<Vec<String>, sqlx::Error> {
    let shards: Vec<i16> = log.shards().collect();
    let tenants = sqlx::query_scalar(include_str!("tenants.sql"));
    tenants.bind(shards).fetch_all(log.pool()).await
}
