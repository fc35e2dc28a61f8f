//! `POST /stream/tickets`: for a page of another origin, whose `EventSource` can send neither
//! a token nor a cookie of ours.
//!
//! Guarantees that a ticket opens `GET /stream` and a patient's replay, and nothing else (this
//! stands before those routes alone), and only for who its maker is. It is sealed, so that
//! its address tells nothing of them; nothing here writes down a request's query. It is good
//! again and again for its minute: an `EventSource` that comes back by itself is let in then,
//! and later its page asks for another one.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::Deserialize;

use super::problem::Problem;
use super::reply::Reply;
use crate::auth::{Caller, Denied, Revocations, Scope, Ticket};
use crate::clock::Clock;
use crate::delivery::seal::Seal;
use crate::wire::StreamTicket;

const PLACE: &str = "stream ticket";

/// How tickets are made and taken.
#[derive(Clone)]
pub struct Tickets {
    pub(super) seal: Seal,
    pub(super) clock: Clock,
    pub(super) revocations: Arc<Revocations>,
}

#[derive(Deserialize)]
struct Shown {
    ticket: String,
}

/// Makes one.
pub async fn make(
    State(tickets): State<Tickets>,
    caller: Caller,
) -> Result<Reply<StreamTicket>, Problem> {
    caller.may(Scope::VitalsRead)?;
    let ticket = Ticket::of(&caller, tickets.clock.now());
    let text = serde_json::to_string(&ticket).unwrap_or_default();
    let sealed = tickets.seal.seal(PLACE, &text, rand::random());
    let expires_at = ticket.until().into();
    Reply::new(StatusCode::CREATED, &StreamTicket { ticket: sealed, expires_at })
}

impl Tickets {
    /// Who comes by a ticket; `None` when something else is to judge.
    pub fn caller(&self, parts: &Parts) -> Result<Option<Caller>, Problem> {
        let shown = Query::<Shown>::try_from_uri(&parts.uri).ok();
        let shown = shown.filter(|_| !parts.headers.contains_key(header::AUTHORIZATION));
        let Some(Query(Shown { ticket })) = shown else { return Ok(None) };
        let sealed = Some(&*ticket).filter(|ticket| self.seal.is_current(ticket));
        let text = sealed.and_then(|sealed| self.seal.open(PLACE, sealed).ok());
        let ticket: Option<Ticket> = text.and_then(|text| serde_json::from_str(&text).ok());
        let none = "this is no ticket of ours: use it whole, as POST /stream/tickets answered it";
        let ticket = ticket.ok_or_else(|| Denied::Unauthorised(none.to_owned()))?;
        Ok(Some(ticket.caller(&self.revocations, self.clock.now())?))
    }
}
