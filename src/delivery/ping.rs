//! A ping: one signed test event, now.
//!
//! Guarantees that it goes the way of every delivery (address, signature, headers,
//! certificate, timeout), whatever the endpoint's state is, so that one can try a paused
//! one before it is made active. Is no delivery: it has no row, is tried once, and its
//! `webhook-id` is its own.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::endpoint::Endpoint;
use super::transport::{AttemptOutcome, Destination, Message, Transport};
use crate::wire::{PingBody, PingBodyLinks};

/// The type of a test event; no rule can have it, for no rule's event is sent to all.
pub const PING: &str = "PING";

/// What came of it.
#[derive(Debug)]
pub struct Pinged {
    /// Of this ping alone.
    pub webhook_id: String,
    /// From the first byte sent to the last one read.
    pub latency: Duration,
    /// What a delivery would have come to.
    pub outcome: AttemptOutcome,
}

/// Sends it; whatever happens is an outcome.
pub async fn ping(transport: &impl Transport, endpoint: &Endpoint, now: DateTime<Utc>) -> Pinged {
    let webhook_id = format!("msg_{}", Uuid::new_v4().simple());
    let body = PingBody {
        r#type: PING,
        timestamp: now.into(),
        event: PING,
        webhook: endpoint.id,
        links: PingBodyLinks { webhook: format!("/api/v1/webhooks/{}", endpoint.id) },
    };
    let body = match serde_json::to_string(&body) {
        Ok(body) => body,
        Err(error) => {
            let outcome = AttemptOutcome::unanswered(error.to_string());
            return Pinged { webhook_id, latency: Duration::ZERO, outcome };
        }
    };
    let message = Message { id: &webhook_id, number: None, body: &body, sent_at: now, trace: None };
    let to = Destination { endpoint_id: endpoint.id, version: endpoint.version };
    let started = Instant::now();
    let sent = transport.send(message, to).await;
    let outcome = sent.unwrap_or_else(|error| AttemptOutcome::unanswered(error.to_string()));
    Pinged { latency: started.elapsed(), webhook_id, outcome }
}
