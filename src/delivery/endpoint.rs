//! Endpoints: where a tenant wants its alerts, and how.
//!
//! Guarantees that a stored endpoint has a readable key and known states, that what is
//! secret of it is sealed, and that a disabled one is said in the log. Does not check
//! URLs: the guard does, at the edge and again before each send.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::breaker::fail_over;
use super::seal::Seal;
use super::state::{EndpointState, words};
use super::webhook::key::{Key, Scheme};
use super::webhook::{Certificate, Headers};
use crate::event::{ENDPOINT_DISABLED, Event, NO_PATIENT};
use crate::log::{AppendError, Log, append};

/// The most endpoints of one tenant: each one multiplies every alert.
pub const ENDPOINTS_PER_TENANT_MAX: i64 = 100;

/// A place to deliver to, as its row holds it.
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
    /// The newest key, sealed.
    pub secret: String,
    /// Older keys that sign still, sealed; the newest first.
    pub secrets_before: Vec<String>,
    /// Until when each of them does.
    pub secrets_before_until: Vec<DateTime<Utc>>,
    /// How its deliveries are signed.
    #[sqlx(try_from = "String")]
    pub signature: Scheme,
    /// `whpk_…`, of ed25519.
    pub public_key: Option<String>,
    /// Headers of its own: a JSON object, sealed.
    pub headers: Option<String>,
    /// Their names.
    pub header_names: Vec<String>,
    /// PEM.
    pub client_certificate: Option<String>,
    /// PEM, sealed.
    pub client_key: Option<String>,
    /// How much its deliveries tell.
    #[sqlx(try_from = "String")]
    pub payload: Payload,
    /// How often it is told that the way is alive.
    pub heartbeat_seconds: Option<i32>,
    /// For people.
    pub description: Option<String>,
    /// Whether it is delivered to.
    #[sqlx(try_from = "String")]
    pub state: EndpointState,
    /// Why it was disabled.
    pub reason: Option<String>,
    /// Gets the high alarms that another endpoint of the tenant cannot take.
    pub fallback: bool,
    /// Whether deliveries about one alert go out one after the other.
    pub ordered: bool,
    /// Events recorded before this are not delivered.
    pub created_at: DateTime<Utc>,
    /// Counts the changes of what a request is made of.
    pub version: i32,
}

words! {
    /// How much a delivery tells.
    Payload {
        /// Everything about the alert.
        Full = "full",
        /// A stub: that there is one, and links; no patient, no device, no value.
        Stub = "thin",
    }
}

/// An endpoint that is to be made.
#[derive(Debug)]
pub struct NewEndpoint {
    /// See [`Endpoint`].
    pub tenant: String,
    /// See [`Endpoint`].
    pub url: String,
    /// See [`Endpoint`].
    pub events: Vec<String>,
    /// What signs its deliveries.
    pub key: Key,
    /// See [`Endpoint`].
    pub description: Option<String>,
    /// See [`Endpoint`].
    pub headers: Headers,
    /// See [`Endpoint`].
    pub certificate: Option<Certificate>,
    /// See [`Endpoint`].
    pub payload: Payload,
    /// See [`Endpoint`].
    pub heartbeat_seconds: Option<i32>,
    /// See [`Endpoint`].
    pub fallback: bool,
    /// See [`Endpoint`].
    pub ordered: bool,
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

/// Where a secret of an endpoint lies: it opens nowhere else.
pub fn place(id: Uuid, field: &str) -> String {
    format!("{id}/{field}")
}

/// Seals a field of an endpoint.
pub(super) fn sealed(seal: &Seal, id: Uuid, field: &str, text: &str) -> String {
    seal.seal(&place(id, field), text, rand::random())
}

/// What may be changed; `None` leaves it.
#[derive(Debug, Default)]
pub struct EndpointChange {
    /// See [`Endpoint`].
    pub url: Option<String>,
    /// See [`Endpoint`].
    pub events: Option<Vec<String>>,
    /// See [`Endpoint`].
    pub description: Option<String>,
    /// Active or paused; only the platform disables.
    pub state: Option<EndpointState>,
    /// See [`Endpoint`]; all of them.
    pub headers: Option<Headers>,
    /// See [`Endpoint`]; `Some(None)` takes it away.
    pub certificate: Option<Option<Certificate>>,
    /// See [`Endpoint`].
    pub payload: Option<Payload>,
    /// See [`Endpoint`]; `Some(None)` takes it away.
    pub heartbeat_seconds: Option<Option<i32>>,
    /// See [`Endpoint`].
    pub fallback: Option<bool>,
    /// See [`Endpoint`]; holds for what is made from now on.
    pub ordered: Option<bool>,
}

/// Stores a new endpoint. Its `created_at` is the database's, the clock that
/// `recorded_at` comes from as well.
pub async fn create(
    pool: &PgPool,
    seal: &Seal,
    new: &NewEndpoint,
) -> Result<Endpoint, EndpointError> {
    let id = Uuid::now_v7();
    let sealed = |field: &str, text: &str| sealed(seal, id, field, text);
    let certificate = new.certificate.as_ref();
    sqlx::query_as(include_str!("create_endpoint.sql"))
        .bind(&new.tenant)
        .bind(id)
        .bind(&new.url)
        .bind(&new.events)
        .bind(sealed("secret", &new.key.to_text()))
        .bind(new.key.scheme().name())
        .bind(new.key.public())
        .bind(&new.description)
        .bind(new.headers.to_json().map(|json| sealed("headers", &json)))
        .bind(new.headers.names())
        .bind(certificate.map(|c| &*c.certificate))
        .bind(certificate.map(|c| sealed("client_key", &c.key)))
        .bind(new.payload.name())
        .bind(new.heartbeat_seconds)
        .bind(ENDPOINTS_PER_TENANT_MAX)
        .bind(new.fallback)
        .bind(new.ordered)
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

/// One endpoint, of any tenant: for the deliverer.
pub(super) async fn find(pool: &PgPool, id: Uuid) -> Result<Option<Endpoint>, sqlx::Error> {
    sqlx::query_as("select * from endpoint where id = $1").bind(id).fetch_optional(pool).await
}

/// Changes an endpoint; making it active clears the reason. A new URL or state is a new
/// chance: its breaker is closed.
pub async fn change(
    pool: &PgPool,
    seal: &Seal,
    tenant: &str,
    id: Uuid,
    change: &EndpointChange,
) -> Result<Option<Endpoint>, sqlx::Error> {
    let sealed = |field: &str, text: &str| sealed(seal, id, field, text);
    let (headers, certificate) = (change.headers.as_ref(), change.certificate.as_ref());
    let pair = certificate.and_then(Option::as_ref);
    sqlx::query_as(include_str!("change_endpoint.sql"))
        .bind(tenant)
        .bind(id)
        .bind(&change.url)
        .bind(&change.events)
        .bind(&change.description)
        .bind(change.state.map(EndpointState::name))
        .bind(headers.is_some())
        .bind(headers.and_then(Headers::to_json).map(|json| sealed("headers", &json)))
        .bind(headers.map(Headers::names))
        .bind(certificate.is_some())
        .bind(pair.map(|c| &*c.certificate))
        .bind(pair.map(|c| sealed("client_key", &c.key)))
        .bind(change.payload.map(Payload::name))
        .bind(change.heartbeat_seconds.is_some())
        .bind(change.heartbeat_seconds.flatten())
        .bind(change.fallback)
        .bind(change.ordered)
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
        bury_pending(&mut tx, id, "the endpoint was deleted").await?;
        sqlx::query("delete from breaker where endpoint_id = $1")
            .bind(id)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(deleted.rows_affected() > 0)
}

/// Disables an endpoint because it said so, and puts that into the log; what it was still
/// to be told of high alarms goes to the tenant's fallbacks. Once: a second call
/// changes nothing.
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
    fail_over(&mut tx, id).await?;
    bury_pending(&mut tx, id, reason).await?;
    sqlx::query("delete from breaker where endpoint_id = $1").bind(id).execute(&mut *tx).await?;
    let shard = log.shard_of(&tenant, NO_PATIENT);
    let data = serde_json::json!({ "v": 1, "endpointId": id, "reason": reason });
    let of_tenant = (tenant, NO_PATIENT);
    let events =
        [Event::non_reading(ENDPOINT_DISABLED, of_tenant, "webhooks", now, data.to_string())];
    sqlx::query("set local synchronous_commit = on").execute(&mut *tx).await?;
    append(&mut tx, shard, &events).await?;
    tx.commit().await?;
    log.wake().appended(shard, &events);
    Ok(())
}

async fn bury_pending(
    tx: &mut PgConnection,
    endpoint: Uuid,
    reason: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update delivery set state = 'dead', finished_at = clock_timestamp(), reason = $2 \
         where endpoint_id = $1 and state = 'pending'",
    )
    .bind(endpoint)
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(())
}
