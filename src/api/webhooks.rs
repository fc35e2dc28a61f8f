//! `/webhooks` and `/deliveries`: where alerts go, and whether they arrived.
//!
//! Guarantees that a secret is shown once, when it is made, and that a URL which
//! the guard refuses is not stored.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::Caller;
use super::extract::{Id, Json, Params};
use super::patients::limit;
use super::problem::Problem;
use super::wire;
use crate::clock::rfc3339;
use crate::log::Log;
use crate::webhook::deliveries::{self, Attempt, Delivery};
use crate::webhook::endpoint::{self, Change, Endpoint, EndpointError};
use crate::webhook::guard::{Guard, Refused};
use crate::webhook::sign::Secret;

const SCOPE: &str = "webhooks:manage";
/// Event names of one endpoint.
const EVENTS_MAX: usize = 50;
const EVENT_CHARS_MAX: usize = 64;
const DESCRIPTION_CHARS_MAX: usize = 500;
/// Deliveries of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

/// What these routes stand on.
#[derive(Clone)]
pub struct Registry {
    pub(super) log: Log,
    pub(super) guard: Guard,
}

#[derive(Deserialize)]
pub struct New {
    url: String,
    events: Vec<String>,
    secret: Option<String>,
    description: Option<String>,
}

/// `POST /webhooks`
pub async fn create(
    State(registry): State<Registry>,
    caller: Caller,
    Json(new): Json<New>,
) -> Result<Response, Problem> {
    caller.may_administer(SCOPE)?;
    check_url(&registry.guard, &new.url).await?;
    check_events(&new.events)?;
    check_description(new.description.as_deref())?;
    let secret = match &new.secret {
        Some(text) => Secret::parse(text)
            .map_err(|error| Problem::invalid("invalid_secret", "/secret", error.to_string()))?,
        None => Secret::generate(rand::random()),
    };
    let endpoint = Endpoint {
        tenant: caller.tenant.to_string(),
        id: Uuid::now_v7(),
        url: new.url,
        events: new.events,
        secret: secret.to_string(),
        description: new.description,
        state: "active".to_owned(),
        reason: None,
        created_at: DateTime::UNIX_EPOCH,
    };
    let endpoint = endpoint::create(registry.log.pool(), endpoint).await?;
    let location = format!("/api/v1/webhooks/{}", endpoint.id);
    let mut body = shown(&endpoint);
    body["secret"] = endpoint.secret.into();
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(body)).into_response())
}

/// `GET /webhooks`
pub async fn list(
    State(registry): State<Registry>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_administer(SCOPE)?;
    let endpoints = endpoint::list(registry.log.pool(), &caller.tenant).await?;
    let body = wire::list(endpoints.iter().map(shown).collect(), None, "/api/v1/webhooks", "");
    Ok(wire::tagged(&headers, &body.clone(), body))
}

/// `GET /webhooks/{id}`
pub async fn get(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_administer(SCOPE)?;
    let endpoint = endpoint::get(registry.log.pool(), &caller.tenant, id).await?;
    let body = shown(&endpoint.ok_or_else(no_endpoint)?);
    Ok(wire::tagged(&headers, &body.clone(), body))
}

#[derive(Deserialize)]
pub struct Patch {
    url: Option<String>,
    events: Option<Vec<String>>,
    description: Option<String>,
    state: Option<String>,
}

/// `PATCH /webhooks/{id}`
pub async fn change(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
    Json(patch): Json<Patch>,
) -> Result<Response, Problem> {
    caller.may_administer(SCOPE)?;
    if let Some(url) = &patch.url {
        check_url(&registry.guard, url).await?;
    }
    if let Some(events) = &patch.events {
        check_events(events)?;
    }
    check_description(patch.description.as_deref())?;
    if patch.state.as_deref().is_some_and(|state| !["active", "paused"].contains(&state)) {
        return Err(Problem::invalid("invalid_state", "/state", "state is active or paused"));
    }
    let Patch { url, events, description, state } = patch;
    let change = Change { url, events, description, state };
    let endpoint = endpoint::change(registry.log.pool(), &caller.tenant, id, change).await?;
    Ok(axum::Json(shown(&endpoint.ok_or_else(no_endpoint)?)).into_response())
}

/// `DELETE /webhooks/{id}`
pub async fn delete(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
) -> Result<Response, Problem> {
    caller.may_administer(SCOPE)?;
    match endpoint::delete(registry.log.pool(), &caller.tenant, id).await? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(no_endpoint()),
    }
}

#[derive(Deserialize)]
pub struct DeliveryParams {
    state: Option<String>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// `GET /webhooks/{id}/deliveries`, newest first.
pub async fn deliveries(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
    Params(params): Params<DeliveryParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_administer(SCOPE)?;
    let state = params.state.as_deref();
    if state.is_some_and(|state| !["pending", "delivered", "dead"].contains(&state)) {
        let detail = "state is one of pending, delivered, dead";
        return Err(Problem::unreadable("invalid_state", detail));
    }
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let before: Option<(i64, Uuid)> = params.cursor.as_deref().map(wire::place).transpose()?;
    let before = before.map(|(micros, id)| wire::time(micros).map(|at| (at, id))).transpose()?;
    let pool = registry.log.pool();
    if endpoint::get(pool, &caller.tenant, id).await?.is_none() {
        return Err(no_endpoint());
    }
    let rows = deliveries::list(pool, &caller.tenant, id, state, before, limit).await?;
    let next = (rows.len() as i64 == limit).then(|| rows.last()).flatten();
    let next = next.map(|last| wire::cursor(&(last.created_at.timestamp_micros(), last.id)));
    let query = state.map(|state| format!("state={state}")).unwrap_or_default();
    let link = format!("/api/v1/webhooks/{id}/deliveries");
    let body = wire::list(rows.iter().map(shown_delivery).collect(), next, &link, &query);
    Ok(wire::tagged(&headers, &body.clone(), body))
}

/// `GET /deliveries/{id}`, with its body and every attempt.
pub async fn delivery(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_administer(SCOPE)?;
    let found = deliveries::get(registry.log.pool(), &caller.tenant, id).await?;
    let (delivery, attempts) = found.ok_or_else(|| Problem::not_found("delivery"))?;
    let mut body = shown_delivery(&delivery);
    body["body"] = serde_json::from_str(&delivery.body).unwrap_or_default();
    // The number of attempts stays under its own key; here they are one by one.
    body["log"] = attempts.iter().map(shown_attempt).collect();
    Ok(wire::tagged(&headers, &body.clone(), body))
}

fn shown(endpoint: &Endpoint) -> Value {
    json!({
        "id": endpoint.id,
        "url": endpoint.url,
        "events": endpoint.events,
        "description": endpoint.description,
        "state": endpoint.state,
        "reason": endpoint.reason,
        "createdAt": rfc3339(endpoint.created_at),
        "_links": {
            "self": format!("/api/v1/webhooks/{}", endpoint.id),
            "deliveries": format!("/api/v1/webhooks/{}/deliveries", endpoint.id),
        },
    })
}

fn shown_delivery(delivery: &Delivery) -> Value {
    let pending_until: Option<DateTime<Utc>> =
        (delivery.state == "pending").then_some(delivery.due_at);
    json!({
        "id": delivery.id,
        "endpointId": delivery.endpoint_id,
        "webhookId": delivery.webhook_id,
        "event": delivery.event,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "createdAt": rfc3339(delivery.created_at),
        "finishedAt": delivery.finished_at.map(rfc3339),
        "nextAttemptAt": pending_until.map(rfc3339),
        "_links": { "self": format!("/api/v1/deliveries/{}", delivery.id) },
    })
}

fn shown_attempt(attempt: &Attempt) -> Value {
    json!({
        "number": attempt.number,
        "startedAt": rfc3339(attempt.started_at),
        "latencyMs": attempt.latency_ms,
        "status": attempt.status,
        "error": attempt.error,
        "answer": attempt.answer_head,
    })
}

fn no_endpoint() -> Problem {
    Problem::not_found("webhook")
}

async fn check_url(guard: &Guard, url: &str) -> Result<(), Problem> {
    let refused = |error: Refused| Problem::invalid(error.code(), "/url", error.to_string());
    let url = guard.check_url(url).map_err(refused)?;
    guard.check_resolved(&url).await.map_err(refused)
}

fn check_events(events: &[String]) -> Result<(), Problem> {
    if events.is_empty() || events.len() > EVENTS_MAX {
        let detail = format!("events holds 1 to {EVENTS_MAX} event names, or \"*\"");
        return Err(Problem::invalid("invalid_events", "/events", detail));
    }
    let name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    for (i, event) in events.iter().enumerate() {
        let named = !event.is_empty() && event.len() <= EVENT_CHARS_MAX && event.chars().all(name);
        if event != "*" && !named {
            let detail = "an event's name is upper case, as HIGH_HEART_RATE, or \"*\" for all";
            return Err(Problem::invalid("invalid_events", &format!("/events/{i}"), detail));
        }
    }
    Ok(())
}

fn check_description(description: Option<&str>) -> Result<(), Problem> {
    let text = description.unwrap_or_default();
    if text.chars().count() > DESCRIPTION_CHARS_MAX || text.contains('\0') {
        let detail = format!("description has {DESCRIPTION_CHARS_MAX} characters at most, no NUL");
        return Err(Problem::invalid("invalid_description", "/description", detail));
    }
    Ok(())
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
