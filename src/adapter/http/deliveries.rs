//! `/deliveries`: whether alerts arrived, and sending them once more.
//!
//! Guarantees that a delivery which is replayed goes out to the letter, under its own
//! `webhook-id`. Does not wait for what becomes of it: the delivery says so.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use uuid::Uuid;

use super::extract::{Id, Json, Params};
use super::patients::limit;
use super::problem::Problem;
use super::reply::Reply;
use super::webhooks::{Registry, SCOPE, no_endpoint};
use super::{cursor, to_wire};
use crate::auth::Caller;
use crate::delivery::deliveries::{self, AttemptRecord, Delivery};
use crate::delivery::endpoint;
use crate::delivery::replay::{self, REPLAY_MAX, ReplayFilter, Replayed};
use crate::delivery::state::{DeliveryState, EndpointState};
use crate::wire::{self, DeliveryWithAttempts, Page, Time, Told};

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
) -> Result<Reply<Page<wire::Delivery>>, Problem> {
    caller.may_administer(SCOPE)?;
    let state = params.state.as_deref().map(|state| {
        let unknown = "state is one of pending, delivered, dead";
        DeliveryState::of(state).ok_or_else(|| Problem::unreadable("invalid_state", unknown))
    });
    let state = state.transpose()?;
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let (log, link) = (&registry.log, format!("/api/v1/webhooks/{id}/deliveries"));
    let place = |cursor| cursor::read(log, cursor, &link);
    let before: Option<(i64, Uuid)> = params.cursor.as_deref().map(place).transpose()?;
    let before = before.map(|(micros, id)| cursor::time(micros).map(|at| (at, id))).transpose()?;
    let pool = registry.log.pool();
    if endpoint::get(pool, &caller.tenant, id).await?.is_none() {
        return Err(no_endpoint());
    }
    let rows = deliveries::list(pool, &caller.tenant, id, state, before, limit).await?;
    let place = |last: &Delivery| (last.created_at.timestamp_micros(), last.id);
    let next = cursor::next(log, &rows, limit, place);
    let query = state.map(|state| format!("state={}", state.name())).unwrap_or_default();
    let items = rows.into_iter().map(shown_delivery).collect::<Result<_, Problem>>()?;
    let page = Page::new(items, next, &link, &query);
    Ok(Reply::tagged(&headers, &page)?.next(page.links.next.as_ref()))
}

/// `GET /deliveries/{id}`, with its body and every attempt.
pub async fn get(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Reply<DeliveryWithAttempts>, Problem> {
    caller.may_administer(SCOPE)?;
    let found = deliveries::get(registry.log.pool(), &caller.tenant, id).await?;
    let (mut delivery, attempts) = found.ok_or_else(|| Problem::not_found("delivery"))?;
    let body = DeliveryWithAttempts {
        body: told(std::mem::take(&mut delivery.body))?,
        delivery: shown_delivery(delivery)?,
        log: attempts.into_iter().map(shown_attempt).collect(),
    };
    Reply::tagged(&headers, &body)
}

/// `POST /deliveries/{id}/replay`: 202 with the delivery, which is due now.
pub async fn replay(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
) -> Result<Reply<wire::Delivery>, Problem> {
    caller.may_administer(SCOPE)?;
    let pool = registry.log.pool();
    let gone = || Problem::not_found("delivery");
    let (delivery, _) = deliveries::get(pool, &caller.tenant, id).await?.ok_or_else(gone)?;
    must_deliver(&registry, &caller, delivery.endpoint_id).await?;
    replay::one(pool, &caller.tenant, id).await?;
    let (delivery, _) = deliveries::get(pool, &caller.tenant, id).await?.ok_or_else(gone)?;
    Reply::new(StatusCode::ACCEPTED, &shown_delivery(delivery)?)
}

/// `POST /webhooks/{id}/replay`: what was finished of the deliveries made in a time, all
/// or those of a state or an event. 202 with their number.
pub async fn replay_range(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
    Json(again): Json<wire::Replay>,
) -> Result<Reply<wire::Replayed>, Problem> {
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
    let range = ReplayFilter { from: again.from.0, to, state, event: again.event };
    match replay::range(registry.log.pool(), &caller.tenant, id, &range).await? {
        Replayed::Due(count) => {
            let (from, to) = (range.from.into(), to.into());
            Reply::new(StatusCode::ACCEPTED, &wire::Replayed { replayed: count, from, to })
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

fn shown_delivery(delivery: Delivery) -> Result<wire::Delivery, Problem> {
    let (state, due_at) = (delivery.state, Time(delivery.due_at));
    Ok(wire::Delivery {
        id: delivery.id,
        endpoint_id: delivery.endpoint_id,
        webhook_id: delivery.webhook_id,
        event: delivery.event,
        sequence: delivery.sequence,
        state: to_wire::word(state.name())?,
        // Of one that is replayed, the reason is of the time before.
        reason: delivery.reason.filter(|_| state == DeliveryState::Dead),
        attempts: delivery.attempts,
        created_at: delivery.created_at.into(),
        finished_at: delivery.finished_at.map(Time),
        next_attempt_at: (state == DeliveryState::Pending).then_some(due_at),
        links: [("self", format!("/api/v1/deliveries/{}", delivery.id))].into(),
    })
}

/// What was sent, to the letter.
pub(super) fn told(body: String) -> Result<Told, Problem> {
    Told::new(body).map_err(|error| to_wire::unreadable("a delivery's body", error))
}

fn shown_attempt(attempt: AttemptRecord) -> wire::Attempt {
    wire::Attempt {
        number: attempt.number,
        started_at: attempt.started_at.into(),
        latency_ms: attempt.latency_ms,
        status: attempt.status,
        error: attempt.error,
        answer: attempt.answer_head,
    }
}
