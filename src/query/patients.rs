//! The directory of patients.
//!
//! Guarantees one order, by id, over all shards, and states that were read in one
//! snapshot with the list. Does not know who may see whom beyond the tenant.

use std::collections::BTreeMap;

use sqlx::{FromRow, Row};

use super::alerts::Alert;
use super::state::{Moment, Newest, State};
use super::{Part, fresh};
use crate::log::Log;
use crate::projection::{SNAPSHOT, look};

/// What the list is made of.
const PARTS: [Part; 4] = [Part::Vitals, Part::Alerts, Part::Records, Part::Existence];

/// A patient of the list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Their id.
    pub patient_id: String,
    /// Where they lie.
    pub ward: Option<String>,
    /// How they are.
    pub state: State,
}

/// Which patients are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this ward's.
    pub ward: Option<String>,
    /// Only this one, for a token that sees no other.
    pub patient_id: Option<String>,
    /// Only those after this id.
    pub after: Option<String>,
    /// How many at most.
    pub limit: i64,
}

/// A page of patients with their states.
pub async fn list(log: &Log, tenant: &str, filter: &Filter) -> Result<Vec<Listed>, sqlx::Error> {
    let shards: Vec<i16> = log.shards().collect();
    let fresh = fresh(log, &shards, &PARTS).await?;
    let mut tx = look(log.pool(), SNAPSHOT, &["alert", "current_vitals", "patient"]).await?;
    let rows: Vec<(String, Option<String>, Option<String>)> = sqlx::query_as(
        "select patient_id, ward, record from patient \
         where shard = any($1) and tenant = $2 \
           and ($3::text is null or ward = $3) and ($4::text is null or patient_id = $4) \
           and ($5::text is null or patient_id > $5) \
         order by patient_id limit $6",
    )
    .bind(&shards)
    .bind(tenant)
    .bind(&filter.ward)
    .bind(&filter.patient_id)
    .bind(&filter.after)
    .bind(filter.limit)
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
            state: State { vitals, alerts, record, fresh, moment: Moment::default() },
        }
    };
    Ok(rows.into_iter().map(listed).collect())
}

/// The tenants that have anything in the log, by name. From the log itself: an import is
/// folded by nobody until a server runs.
pub async fn tenants(log: &Log) -> Result<Vec<String>, sqlx::Error> {
    let shards: Vec<i16> = log.shards().collect();
    let tenants = sqlx::query_scalar(include_str!("tenants.sql"));
    tenants.bind(shards).fetch_all(log.pool()).await
}
