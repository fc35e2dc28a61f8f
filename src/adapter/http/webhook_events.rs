//! `GET /webhooks/{id}/events`: what an endpoint was to be told, by number.
//!
//! Guarantees no gap: a receiver that keeps the highest `webhook-sequence` up to which it
//! has everything, and asks for what comes after it, has missed nothing. Bodies are given
//! as they were made, so that they need not be sent again. A number from before a restore is
//! answered with 409 `log_restored` and a link that misses nothing: that number may be one
//! that was given in the lost history.

use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;

use super::deliveries::told;
use super::extract::{Id, Params};
use super::patients::limit;
use super::problem::Problem;
use super::reply::Reply;
use super::webhooks::{Registry, SCOPE, no_endpoint};
use super::{cursor, to_wire};
use crate::auth::Caller;
use crate::delivery::endpoint;
use crate::delivery::events::{self, Numbered};
use crate::wire::{self, NumberedEvent, Page, ProblemLinks};

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
) -> Result<Reply<wire::Numbered>, Problem> {
    caller.may_administer(SCOPE)?;
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let (log, link) = (&registry.log, format!("/api/v1/webhooks/{id}/events"));
    let place = |cursor| cursor::read::<i64>(log, cursor, &link);
    let place = params.cursor.as_deref().map(place).transpose()?;
    let after = place.or(params.after).unwrap_or(0);
    if after < 0 {
        let detail = "after is the last number that was seen; 0 for all";
        return Err(Problem::unreadable("invalid_after", detail));
    }
    let pool = log.pool();
    if endpoint::get(pool, &caller.tenant, id).await?.is_none() {
        return Err(no_endpoint());
    }
    let from = log.incarnations().sequences_from();
    if place.is_none() && (1..=from).contains(&after) {
        let kept = cursor::write(log, &events::kept(pool, id, after, from).await?);
        let detail = "the log was restored since, and this number may have been given in what is lost: \
                      go on with _links.next, and nothing that is to be told is missed";
        let next = format!("{link}?cursor={kept}");
        let links = ProblemLinks { first: link.clone(), next: Some(next) };
        let restored = cursor::log_restored(detail, &link);
        return Err(restored.with(|document| document.links = Some(links)));
    }
    let last = events::last(pool, id).await?;
    let rows = events::after(pool, id, after, limit).await?;
    let next = cursor::next(log, &rows, limit, |last| last.sequence);
    let items = rows.into_iter().map(shown).collect::<Result<_, Problem>>()?;
    let page = Page::new(items, next, &link, "");
    let incarnation = log.incarnations().number();
    let body = wire::Numbered { page, last, incarnation };
    Ok(Reply::tagged(&headers, &body)?.next(body.page.links.next.as_ref()))
}

fn shown(numbered: Numbered) -> Result<NumberedEvent, Problem> {
    Ok(NumberedEvent {
        sequence: numbered.sequence,
        webhook_id: numbered.webhook_id,
        event: numbered.event,
        state: to_wire::word(numbered.state.name())?,
        created_at: numbered.created_at.into(),
        body: told(numbered.body)?,
    })
}
