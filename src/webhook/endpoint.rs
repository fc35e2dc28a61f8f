//! Endpoints: where a tenant wants its alerts.
//!
//! Guarantees that a stored endpoint has a readable secret and known states, and
//! that a disabled one is said in the log. Does not check URLs: the guard does, at
//! the edge and again before each send.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::event::{ENDPOINT_DISABLED, Event, NO_PATIENT};
use crate::log::{AppendError, Log, append};

/// The most endpoints of one tenant: each one multiplies every alert.
pub const ENDPOINTS_PER_TENANT_MAX: i64 = 100;

/// A place to deliver to.
#[derive(Clone, Debug, FromRow)]
pub struct Endpoint {
    /// Who owns it.
    pub tenant: String,
    /// Its id.
    pub id: Uuid,
    /// Where to POST.
    pub url: String,
    /// Event names, or `*`.
    pub events: Vec<String>,
    /// `whsec_…`
    pub secret: String,
    /// For people.
    pub description: Option<String>,
    /// `active`, `paused` (rows wait) or `disabled` (no rows).
    pub state: String,
    /// Why it was disabled.
    pub reason: Option<String>,
    /// Events recorded before this are not delivered.
    pub created_at: DateTime<Utc>,
}

/// Why an endpoint could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// PostgreSQL said no, or is gone.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    /// The log did not take the event.
    #[error("{0}")]
    Append(#[from] AppendError),
    /// The tenant has as many as it may.
    #[error("a tenant has {ENDPOINTS_PER_TENANT_MAX} endpoints at most: delete one first")]
    TooMany,
}

/// What may be changed; `None` leaves it.
#[derive(Debug, Default)]
pub struct Change {
    /// See [`Endpoint`].
    pub url: Option<String>,
    /// See [`Endpoint`].
    pub events: Option<Vec<String>>,
    /// See [`Endpoint`].
    pub description: Option<String>,
    /// `active` or `paused`.
    pub state: Option<String>,
}

/// Stores a new endpoint. Its `created_at` is the database's, the clock that
/// `recorded_at` comes from as well.
pub async fn create(pool: &PgPool, new: Endpoint) -> Result<Endpoint, EndpointError> {
    sqlx::query_as(
        "insert into endpoint (tenant, id, url, events, secret, description, state, created_at) \
         select $1, $2, $3, $4, $5, $6, $7, clock_timestamp() \
         where (select count(*) from endpoint where tenant = $1) < $8 returning *",
    )
    .bind(&new.tenant)
    .bind(new.id)
    .bind(&new.url)
    .bind(&new.events)
    .bind(&new.secret)
    .bind(&new.description)
    .bind(&new.state)
    .bind(ENDPOINTS_PER_TENANT_MAX)
    .fetch_optional(pool)
    .await?
    .ok_or(EndpointError::TooMany)
}

/// All endpoints of a tenant, oldest first; there are few.
pub async fn list(pool: &PgPool, tenant: &str) -> Result<Vec<Endpoint>, sqlx::Error> {
    sqlx::query_as("select * from endpoint where tenant = $1 order by created_at, id")
        .bind(tenant)
        .fetch_all(pool)
        .await
}

/// One endpoint of a tenant.
pub async fn get(pool: &PgPool, tenant: &str, id: Uuid) -> Result<Option<Endpoint>, sqlx::Error> {
    sqlx::query_as("select * from endpoint where tenant = $1 and id = $2")
        .bind(tenant)
        .bind(id)
        .fetch_optional(pool)
        .await
}

/// Changes an endpoint; making it active clears the reason.
pub async fn change(
    pool: &PgPool,
    tenant: &str,
    id: Uuid,
    change: Change,
) -> Result<Option<Endpoint>, sqlx::Error> {
    sqlx::query_as(
        "update endpoint set url = coalesce($3, url), events = coalesce($4, events), \
            description = coalesce($5, description), state = coalesce($6, state), \
            reason = case when $6 is null then reason end \
         where tenant = $1 and id = $2 returning *",
    )
    .bind(tenant)
    .bind(id)
    .bind(change.url)
    .bind(change.events)
    .bind(change.description)
    .bind(change.state)
    .fetch_optional(pool)
    .await
}

/// Forgets an endpoint; what was still to be delivered to it is dead.
pub async fn delete(pool: &PgPool, tenant: &str, id: Uuid) -> Result<bool, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let deleted = sqlx::query("delete from endpoint where tenant = $1 and id = $2")
        .bind(tenant)
        .bind(id)
        .execute(&mut *tx)
        .await?;
    if deleted.rows_affected() > 0 {
        bury_pending(&mut tx, id).await?;
    }
    tx.commit().await?;
    Ok(deleted.rows_affected() > 0)
}

/// Disables an endpoint because it said so or because it is beyond hope, and puts
/// that into the log. Once: whoever comes second changes nothing.
pub async fn disable(
    log: &Log,
    pool: &PgPool,
    id: Uuid,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), EndpointError> {
    log.ensure_partitions([now].into_iter()).await?;
    let mut tx = pool.begin().await?;
    let tenant: Option<String> = sqlx::query_scalar(
        "update endpoint set state = 'disabled', reason = $2 \
         where id = $1 and state <> 'disabled' returning tenant",
    )
    .bind(id)
    .bind(reason)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(tenant) = tenant else {
        tx.rollback().await?;
        return Ok(());
    };
    bury_pending(&mut tx, id).await?;
    let shard = log.shard_of(&tenant, NO_PATIENT);
    let data = serde_json::json!({ "v": 1, "endpointId": id, "reason": reason });
    let event = Event {
        tenant: tenant.into(),
        patient_id: NO_PATIENT.to_owned(),
        kind: ENDPOINT_DISABLED.to_owned(),
        vital: None,
        value: None,
        quality: None,
        suspect: false,
        occurred_at: now,
        source_id: "webhooks".to_owned(),
        data: Some(data.to_string()),
    };
    sqlx::query("set local synchronous_commit = on").execute(&mut *tx).await?;
    let events = [event];
    append(&mut tx, shard, &events).await?;
    tx.commit().await?;
    log.wake().appended(shard, &events);
    Ok(())
}

async fn bury_pending(tx: &mut PgConnection, endpoint: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update delivery set state = 'dead', finished_at = clock_timestamp() \
         where endpoint_id = $1 and state = 'pending'",
    )
    .bind(endpoint)
    .execute(tx)
    .await?;
    Ok(())
}
