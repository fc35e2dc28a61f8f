//! What carries a message to an endpoint.
//!
//! Guarantees that what claims, retries, numbers, holds back, hands over and replays
//! deliveries sees of a transport only this: one message goes in, one [`AttemptOutcome`] comes out.
//! Does not retry and does not record: the deliverer does. Nothing here knows of HTTP; the
//! webhook is one transport ([`super::webhook`]).

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::trace::TraceContext;

/// What is sent, to the letter.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The same over attempts, replays and endpoints, so that a receiver can drop repeats.
    pub id: &'a str,
    /// Its place among what the endpoint is told, if it has one.
    pub number: Option<SequenceNumber>,
    /// JSON.
    pub body: &'a str,
    /// When this attempt began.
    pub sent_at: DateTime<Utc>,
    /// The trace that it belongs to, if any: what the receiver does follows from it.
    pub trace: Option<&'a TraceContext>,
}

/// A message's number at its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceNumber {
    /// From 1, without gaps within an incarnation.
    pub sequence: i64,
    /// The incarnation of the log in which it was given.
    pub incarnation: i64,
}

/// Where a message goes: an endpoint whose row has this version, or a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The endpoint.
    pub endpoint_id: Uuid,
    /// Counts the changes of what a transport must know of it.
    pub version: i32,
}

/// What the receiver made of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptOutcome {
    /// What follows from it.
    pub verdict: Verdict,
    /// The answer's number, where the transport has such numbers and an answer came.
    pub status: Option<u16>,
    /// The answer's first bytes.
    pub answer_head: Option<String>,
}

/// What follows for the delivery, and for its endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver has it.
    Delivered,
    /// It has not: the schedule decides whether and when it is tried again.
    Retry {
        /// The least time that the receiver asks for.
        after: Option<Duration>,
        /// In short, for people.
        reason: String,
    },
    /// The receiver says that it wants nothing any more: its endpoint is disabled.
    Gone {
        /// In short, for people.
        reason: String,
    },
}

impl AttemptOutcome {
    /// No answer came, for this reason.
    pub fn unanswered(reason: String) -> AttemptOutcome {
        AttemptOutcome {
            verdict: Verdict::Retry { after: None, reason },
            status: None,
            answer_head: None,
        }
    }

    /// Whether the receiver has it.
    pub fn is_delivered(&self) -> bool {
        self.verdict == Verdict::Delivered
    }

    /// Why it was not delivered.
    pub fn reason(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Delivered => None,
            Verdict::Retry { reason, .. } | Verdict::Gone { reason } => Some(reason),
        }
    }

    /// Why no answer came, if none did.
    pub fn error(&self) -> Option<&str> {
        self.reason().filter(|_| self.status.is_none())
    }
}

/// Nothing was sent, for want of something on this machine or in its database. Says nothing
/// of the receiver, and is no attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotSent(pub String);

/// A way to endpoints.
pub trait Transport: Send + Sync + 'static {
    /// Sends a message once. Ends in bounded time, well within a delivery's lease, whatever
    /// the receiver does.
    fn send(
        &self,
        message: Message<'_>,
        to: Destination,
    ) -> impl Future<Output = Result<AttemptOutcome, NotSent>> + Send;
}
