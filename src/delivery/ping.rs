//! A ping: one signed test event, now.
//!
//! Guarantees that it goes the way of every delivery (guard, signature, headers,
//! certificate, timeout), whatever the endpoint's state is, so that one can try a paused
//! one before it is made active. Is no delivery: it has no row, is tried once, and its
//! `webhook-id` is its own.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use super::endpoint::Endpoint;
use super::line::Lines;
use super::send::{Unsent, head_of};
use crate::clock::rfc3339;

/// The type of a test event; no rule can have it, for no rule's event is sent to all.
pub const PING: &str = "PING";

/// What came of it.
#[derive(Debug)]
pub struct Pinged {
    /// Of this ping alone.
    pub webhook_id: String,
    /// From the first byte sent to the last one read.
    pub latency: Duration,
    /// Of the answer, if one came.
    pub status: Option<u16>,
    /// Why none came.
    pub error: Option<String>,
    /// The answer's first bytes.
    pub answer_head: Option<String>,
}

impl Pinged {
    /// Whether a delivery would count as delivered.
    pub fn is_taken(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// Sends it; whatever happens is an outcome.
pub async fn ping(lines: &Lines, endpoint: &Endpoint, now: DateTime<Utc>) -> Pinged {
    let webhook_id = format!("msg_{}", Uuid::new_v4().simple());
    let body = json!({
        "type": PING,
        "timestamp": rfc3339(now),
        "event": PING,
        "webhook": endpoint.id,
        "_links": { "webhook": format!("/api/v1/webhooks/{}", endpoint.id) },
    });
    let started = Instant::now();
    let sent = async {
        let line = lines.line(endpoint.id, endpoint.version).await?;
        let answer = line.request(&webhook_id, &body.to_string(), now).send().await?;
        Ok((line, answer))
    };
    let (status, error, answer_head) = match sent.await {
        Ok((line, answer)) => (Some(answer.status().as_u16()), None, head_of(answer, &line).await),
        Err(Unsent::Ours(error) | Unsent::Theirs(error)) => (None, Some(error), None),
    };
    Pinged { webhook_id, latency: started.elapsed(), status, error, answer_head }
}
