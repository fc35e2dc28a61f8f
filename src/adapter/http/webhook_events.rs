//! `GET /webhooks/{id}/events`: what an endpoint was to be told, by number.
//!
//! Guarantees no gap: a receiver that keeps the highest `webhook-sequence` up to which it
//! has everything, and asks for what comes after it, has missed nothing. Bodies are given
//! as they were made, so that they need not be sent again. A number from before a restore is
//! answered with 409 `log_restored` and a link that misses nothing: that number may be one
//! that was given in the lost history.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Id, Params};
use super::patients::limit;
use super::problem::Problem;
use super::webhooks::{Registry, SCOPE, no_endpoint};
use super::wire;
use crate::auth::Caller;
use crate::clock::rfc3339;
use crate::delivery::endpoint;
use crate::delivery::events::{self, Numbered};

/// Events of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

#[derive(Deserialize)]
pub struct EventParams {
    after: Option<i64>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// Oldest first; `last` is the newest number that there is.
pub async fn list(
    State(registry): State<Registry>,
    caller: Caller,
    Id(id): Id,
    Params(params): Params<EventParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_administer(SCOPE)?;
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let (log, link) = (&registry.log, format!("/api/v1/webhooks/{id}/events"));
    let cursor = |cursor| wire::place::<i64>(log, cursor, &link);
    let cursor = params.cursor.as_deref().map(cursor).transpose()?;
    let after = cursor.or(params.after).unwrap_or(0);
    if after < 0 {
        let detail = "after is the last number that was seen; 0 for all";
        return Err(Problem::unreadable("invalid_after", detail));
    }
    let pool = log.pool();
    if endpoint::get(pool, &caller.tenant, id).await?.is_none() {
        return Err(no_endpoint());
    }
    let from = log.history().sequences_from();
    if cursor.is_none() && (1..=from).contains(&after) {
        let kept = wire::cursor(log, &events::kept(pool, id, after, from).await?);
        let detail = "the log was restored since, and this number may have been given in what is lost: \
                      go on with _links.next, and nothing that is to be told is missed";
        let next = format!("{link}?cursor={kept}");
        let links = json!({ "first": link, "next": next });
        return Err(wire::log_restored(detail, &link).with("_links", links));
    }
    let last = events::last(pool, id).await?;
    let rows = events::after(pool, id, after, limit).await?;
    let next = (rows.len() as i64 == limit).then(|| rows.last()).flatten();
    let next = next.map(|last| wire::cursor(log, &last.sequence));
    let mut body = wire::list(rows.iter().map(shown).collect(), next, &link, "");
    body["last"] = last.into();
    body["incarnation"] = log.history().number().into();
    Ok(wire::tagged(&headers, &body.clone(), body))
}

fn shown(numbered: &Numbered) -> Value {
    let body: Value = serde_json::from_str(&numbered.body).unwrap_or_default();
    json!({
        "sequence": numbered.sequence,
        "webhookId": numbered.webhook_id,
        "event": numbered.event,
        "state": numbered.state.name(),
        "createdAt": rfc3339(numbered.created_at),
        "body": body,
    })
}
