//! `/webhooks`: where alerts go, and how.
//!
//! Guarantees that a secret is shown once, when it is made, that what is secret beside it
//! is never shown, and that a URL which the guard refuses is not stored.

mod options;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};

use super::extract::{Id, Json, Optional};
use super::problem::Problem;
use super::reply::Reply;
use super::to_wire;
use crate::auth::{Caller, Scope};
use crate::clock::Clock;
use crate::delivery::breaker::{self, OpenBreaker};
use crate::delivery::endpoint::{self, Endpoint, EndpointChange, EndpointError};
use crate::delivery::ping;
use crate::delivery::secrets::{self, RotateError};
use crate::delivery::webhook::EndpointClients;
use crate::delivery::webhook::pem::certificates_only;
use crate::log::Log;
use crate::rules::versions;
use crate::wire::{self, ChangedWebhook, NewWebhook, Page, Rotation, WebhookWithSecret};

pub(super) const SCOPE: Scope = Scope::WebhooksManage;

/// What these routes stand on.
#[derive(Clone)]
pub struct Registry {
    pub(super) log: Log,
    pub(super) clients: EndpointClients,
    pub(super) clock: Clock,
}

/// `POST /webhooks`
pub async fn create(
    State(registry): State<Registry>,
    caller: Caller,
    Json(new): Json<NewWebhook>,
) -> Result<Reply<WebhookWithSecret>, Problem> {
    caller.may_administer(SCOPE)?;
    options::check_url(registry.clients.guard(), &caller.tenant, &new.url).await?;
    let own = versions::events(&registry.log, &caller.tenant).await?;
    options::check_events(&new.events, &own, new.fallback)?;
    options::check_description(new.description.as_deref())?;
    let scheme = options::scheme(new.signature.as_deref())?;
    let certificate = options::certificate(new.client_certificate, new.client_key)?;
    options::check_tls(&new.url, certificate.is_some())?;
    let new = endpoint::NewEndpoint {
        tenant: caller.tenant.to_string(),
        key: options::key(scheme, new.secret.as_deref())?,
        headers: options::headers(&new.headers)?,
        payload: options::payload(new.payload.as_deref().unwrap_or("full"))?,
        heartbeat_seconds: new.heartbeat.as_deref().map(options::heartbeat).transpose()?,
        url: new.url,
        events: new.events,
        description: new.description,
        certificate,
        fallback: new.fallback,
        ordered: new.ordered,
    };
    let endpoint = endpoint::create(registry.log.pool(), registry.clients.seal(), &new).await?;
    let location = format!("/api/v1/webhooks/{}", endpoint.id);
    let secret = new.key.to_text();
    let webhook = shown(endpoint, &[])?;
    let body = WebhookWithSecret { webhook, secret, previous_until: None };
    Ok(Reply::new(StatusCode::CREATED, &body)?.at(&location))
}

/// `GET /webhooks`
pub async fn list(
    State(registry): State<Registry>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Reply<Page<wire::Webhook>>, Problem> {
    caller.may_administer(SCOPE)?;
    let endpoints = endpoint::list(registry.log.pool(), &caller.tenant).await?;
    let broken = breaker::of_tenant(registry.log.pool(), &caller.tenant).await?;
    let items = endpoints.into_iter().map(|endpoint| shown(endpoint, &broken));
    let items = items.collect::<Result<_, Problem>>()?;
    Reply::tagged(&headers, &Page::new(items, None, "/api/v1/webhooks", ""))
}

/// `GET /webhooks/{id}`
pub async fn get(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Reply<wire::Webhook>, Problem> {
    caller.may_administer(SCOPE)?;
    let endpoint = endpoint::get(registry.log.pool(), &caller.tenant, id).await?;
    let endpoint = endpoint.ok_or_else(no_endpoint)?;
    let broken = breaker::of_tenant(registry.log.pool(), &caller.tenant).await?;
    Reply::tagged(&headers, &shown(endpoint, &broken)?)
}

/// `PATCH /webhooks/{id}`
pub async fn change(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
    Json(patch): Json<ChangedWebhook>,
) -> Result<Reply<wire::Webhook>, Problem> {
    caller.may_administer(SCOPE)?;
    if let Some(url) = &patch.url {
        options::check_url(registry.clients.guard(), &caller.tenant, url).await?;
    }
    if let Some(events) = &patch.events {
        let own = versions::events(&registry.log, &caller.tenant).await?;
        options::check_events(events, &own, patch.fallback == Some(true))?;
    }
    options::check_description(patch.description.as_deref())?;
    let state = patch.state.as_deref().map(options::state).transpose()?;
    let certificate = match (patch.client_certificate, patch.client_key) {
        (None, None) => None,
        (certificate, key) => Some(options::certificate(certificate.flatten(), key.flatten())?),
    };
    let heartbeat = |text: Option<String>| text.as_deref().map(options::heartbeat).transpose();
    let change = EndpointChange {
        headers: patch.headers.as_ref().map(options::headers).transpose()?,
        payload: patch.payload.as_deref().map(options::payload).transpose()?,
        heartbeat_seconds: patch.heartbeat.map(heartbeat).transpose()?,
        url: patch.url,
        events: patch.events,
        description: patch.description,
        state,
        certificate,
        fallback: patch.fallback,
        ordered: patch.ordered,
    };
    let (pool, seal) = (registry.log.pool(), registry.clients.seal());
    if change.url.is_some() || change.certificate.is_some() {
        let now = endpoint::get(pool, &caller.tenant, id).await?.ok_or_else(no_endpoint)?;
        let url = change.url.as_deref().unwrap_or(&now.url);
        let kept = now.client_certificate.is_some();
        options::check_tls(url, change.certificate.as_ref().map_or(kept, Option::is_some))?;
    }
    let endpoint = endpoint::change(pool, seal, &caller.tenant, id, &change).await?;
    let endpoint = endpoint.ok_or_else(no_endpoint)?;
    let broken = breaker::of_tenant(pool, &caller.tenant).await?;
    Reply::ok(&shown(endpoint, &broken)?)
}

/// `DELETE /webhooks/{id}`
pub async fn delete(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
) -> Result<StatusCode, Problem> {
    caller.may_administer(SCOPE)?;
    match endpoint::delete(registry.log.pool(), &caller.tenant, id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_endpoint()),
    }
}

/// `POST /webhooks/{id}/rotate-secret`. The kind of signature stays as it is, unless the
/// body says otherwise.
pub async fn rotate(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
    Optional(rotation): Optional<Rotation>,
) -> Result<Reply<WebhookWithSecret>, Problem> {
    caller.may_administer(SCOPE)?;
    let (pool, seal) = (registry.log.pool(), registry.clients.seal());
    let now = endpoint::get(pool, &caller.tenant, id).await?.ok_or_else(no_endpoint)?;
    let scheme = rotation.signature.as_deref().unwrap_or(now.signature.name());
    let scheme = options::scheme(Some(scheme))?;
    let key = options::key(scheme, rotation.secret.as_deref())?;
    let rotated =
        secrets::rotate(pool, seal, &caller.tenant, id, &key, registry.clock.now()).await?;
    let (endpoint, until) = rotated.ok_or_else(no_endpoint)?;
    let broken = breaker::of_tenant(pool, &caller.tenant).await?;
    let (webhook, secret) = (shown(endpoint, &broken)?, key.to_text());
    Reply::ok(&WebhookWithSecret { webhook, secret, previous_until: Some(until.into()) })
}

/// `POST /webhooks/{id}/ping`: 200 with what came of it, whatever the endpoint answered.
pub async fn ping(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
) -> Result<Reply<wire::Ping>, Problem> {
    caller.may_administer(SCOPE)?;
    let found = endpoint::get(registry.log.pool(), &caller.tenant, id).await?;
    let endpoint = found.ok_or_else(no_endpoint)?;
    let pinged = ping::ping(&registry.clients, &endpoint, registry.clock.now()).await;
    Reply::ok(&wire::Ping {
        delivered: pinged.outcome.is_delivered(),
        webhook_id: pinged.webhook_id,
        status: pinged.outcome.status,
        latency_ms: pinged.latency.as_millis() as u64,
        error: pinged.outcome.error().map(ToOwned::to_owned),
        answer: pinged.outcome.answer_head,
    })
}

/// An endpoint; with its breaker, if that is among those which are not closed.
fn shown(endpoint: Endpoint, broken: &[OpenBreaker]) -> Result<wire::Webhook, Problem> {
    let breaker = broken.iter().find(|breaker| breaker.endpoint_id == endpoint.id);
    let breaker = breaker.map(|breaker| {
        Ok::<_, Problem>(wire::Breaker {
            state: to_wire::word(breaker.state.name())?,
            since: breaker.since.into(),
            until: breaker.until.into(),
            reason: breaker.reason.clone(),
        })
    });
    let link = format!("/api/v1/webhooks/{}", endpoint.id);
    Ok(wire::Webhook {
        id: endpoint.id,
        url: endpoint.url,
        events: endpoint.events,
        description: endpoint.description,
        state: to_wire::word(endpoint.state.name())?,
        reason: endpoint.reason,
        breaker: breaker.transpose()?,
        signature: to_wire::word(endpoint.signature.name())?,
        public_key: endpoint.public_key,
        header_names: endpoint.header_names,
        client_certificate: endpoint.client_certificate.as_deref().map(certificates_only),
        payload: to_wire::word(endpoint.payload.name())?,
        heartbeat: endpoint.heartbeat_seconds.map(|seconds| format!("{seconds}s")),
        fallback: endpoint.fallback,
        ordered: endpoint.ordered,
        created_at: endpoint.created_at.into(),
        links: [
            ("self", link.clone()),
            ("deliveries", format!("{link}/deliveries")),
            ("events", format!("{link}/events")),
        ]
        .into(),
    })
}

pub(super) fn no_endpoint() -> Problem {
    Problem::not_found("webhook")
}

impl From<EndpointError> for Problem {
    fn from(error: EndpointError) -> Problem {
        match error {
            EndpointError::Database(error) => error.into(),
            EndpointError::Append(error) => error.into(),
            EndpointError::TooMany => {
                Problem::invalid("too_many_webhooks", "", EndpointError::TooMany.to_string())
            }
        }
    }
}

impl From<RotateError> for Problem {
    fn from(error: RotateError) -> Problem {
        match error {
            RotateError::Database(error) => error.into(),
            RotateError::TooOften { .. } => {
                Problem::new(StatusCode::CONFLICT, "rotated_too_often", error.to_string())
            }
        }
    }
}
