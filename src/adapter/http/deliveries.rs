//! `/deliveries`: whether alerts arrived, and sending them once more.
//!
//! Guarantees that a delivery which is replayed goes out to the letter, under its own
//! `webhook-id`. Does not wait for what becomes of it: the delivery says so.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::extract::{Id, Json, Params, Time};
use super::patients::limit;
use super::problem::Problem;
use super::webhooks::{Registry, SCOPE, no_endpoint};
use super::wire;
use crate::auth::Caller;
use crate::clock::rfc3339;
use crate::delivery::deliveries::{self, AttemptRecord, Delivery};
use crate::delivery::endpoint;
use crate::delivery::replay::{self, REPLAY_MAX, Range, Replayed};
use crate::delivery::state::{DeliveryState, EndpointState};

/// Deliveries of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

#[derive(Deserialize)]
pub struct DeliveryParams {
    state: Option<String>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// `GET /webhooks/{id}/deliveries`, newest first.
pub async fn list(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
    Params(params): Params<DeliveryParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_administer(SCOPE)?;
    let state = params.state.as_deref().map(|state| {
        let unknown = "state is one of pending, delivered, dead";
        DeliveryState::of(state).ok_or_else(|| Problem::unreadable("invalid_state", unknown))
    });
    let state = state.transpose()?;
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let (log, link) = (&registry.log, format!("/api/v1/webhooks/{id}/deliveries"));
    let cursor = |cursor| wire::place(log, cursor, &link);
    let before: Option<(i64, Uuid)> = params.cursor.as_deref().map(cursor).transpose()?;
    let before = before.map(|(micros, id)| wire::time(micros).map(|at| (at, id))).transpose()?;
    let pool = registry.log.pool();
    if endpoint::get(pool, &caller.tenant, id).await?.is_none() {
        return Err(no_endpoint());
    }
    let rows = deliveries::list(pool, &caller.tenant, id, state, before, limit).await?;
    let next = (rows.len() as i64 == limit).then(|| rows.last()).flatten();
    let place = |last: &Delivery| (last.created_at.timestamp_micros(), last.id);
    let next = next.map(|last| wire::cursor(log, &place(last)));
    let query = state.map(|state| format!("state={}", state.name())).unwrap_or_default();
    let body = wire::list(rows.iter().map(shown_delivery).collect(), next, &link, &query);
    Ok(wire::tagged(&headers, &body.clone(), body))
}

/// `GET /deliveries/{id}`, with its body and every attempt.
pub async fn get(
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

/// `POST /deliveries/{id}/replay`: 202 with the delivery, which is due now.
pub async fn replay(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
) -> Result<Response, Problem> {
    caller.may_administer(SCOPE)?;
    let pool = registry.log.pool();
    let gone = || Problem::not_found("delivery");
    let (delivery, _) = deliveries::get(pool, &caller.tenant, id).await?.ok_or_else(gone)?;
    must_deliver(&registry, &caller, delivery.endpoint_id).await?;
    replay::one(pool, &caller.tenant, id).await?;
    let (delivery, _) = deliveries::get(pool, &caller.tenant, id).await?.ok_or_else(gone)?;
    Ok((StatusCode::ACCEPTED, axum::Json(shown_delivery(&delivery))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Again {
    from: Time,
    to: Option<Time>,
    state: Option<String>,
    event: Option<String>,
}

/// `POST /webhooks/{id}/replay`: what was finished of the deliveries made in a time, all
/// or those of a state or an event. 202 with their number.
pub async fn replay_range(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
    Json(again): Json<Again>,
) -> Result<Response, Problem> {
    caller.may_administer(SCOPE)?;
    let to = again.to.map_or_else(|| registry.clock.now(), |to| to.0);
    if to <= again.from.0 {
        let detail = "\"from\" has to lie before \"to\"";
        return Err(Problem::invalid("invalid_range", "/from", detail));
    }
    let state = again.state.as_deref().map(|state| {
        let other = "state is delivered or dead: what is pending is on its way already";
        let finished = DeliveryState::of(state).filter(|state| *state != DeliveryState::Pending);
        finished.ok_or_else(|| Problem::invalid("invalid_state", "/state", other))
    });
    let state = state.transpose()?;
    must_deliver(&registry, &caller, id).await?;
    let range = Range { from: again.from.0, to, state, event: again.event };
    match replay::range(registry.log.pool(), &caller.tenant, id, &range).await? {
        Replayed::Due(count) => {
            let body = json!({ "replayed": count, "from": rfc3339(range.from), "to": rfc3339(to) });
            Ok((StatusCode::ACCEPTED, axum::Json(body)).into_response())
        }
        Replayed::TooMany(count) => {
            let detail = format!(
                "these are {count} deliveries, and {REPLAY_MAX} at most are replayed at once: take a \
                 shorter time, or a state or an event"
            );
            Err(Problem::invalid("too_many_deliveries", "/from", detail))
        }
    }
}

/// 404 without the endpoint, 409 if it is disabled: what is due would wait unseen.
async fn must_deliver(registry: &Registry, caller: &Caller, id: Uuid) -> Result<(), Problem> {
    let found = endpoint::get(registry.log.pool(), &caller.tenant, id).await?;
    match found.ok_or_else(no_endpoint)?.state {
        EndpointState::Disabled => {
            let detail = "the webhook is disabled: make it active first (PATCH its state)";
            Err(Problem::new(StatusCode::CONFLICT, "webhook_disabled", detail))
        }
        EndpointState::Active | EndpointState::Paused => Ok(()),
    }
}

fn shown_delivery(delivery: &Delivery) -> Value {
    let pending_until: Option<DateTime<Utc>> =
        (delivery.state == DeliveryState::Pending).then_some(delivery.due_at);
    json!({
        "id": delivery.id,
        "endpointId": delivery.endpoint_id,
        "webhookId": delivery.webhook_id,
        "event": delivery.event,
        "sequence": delivery.sequence,
        "state": delivery.state.name(),
        // Of one that is replayed, the reason is of the time before.
        "reason": delivery.reason.as_ref().filter(|_| delivery.state == DeliveryState::Dead),
        "attempts": delivery.attempts,
        "createdAt": rfc3339(delivery.created_at),
        "finishedAt": delivery.finished_at.map(rfc3339),
        "nextAttemptAt": pending_until.map(rfc3339),
        "_links": { "self": format!("/api/v1/deliveries/{}", delivery.id) },
    })
}

fn shown_attempt(attempt: &AttemptRecord) -> Value {
    json!({
        "number": attempt.number,
        "startedAt": rfc3339(attempt.started_at),
        "latencyMs": attempt.latency_ms,
        "status": attempt.status,
        "error": attempt.error,
        "answer": attempt.answer_head,
    })
}
