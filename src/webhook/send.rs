//! Sending: one POST and what came back.
//!
//! Guarantees that an attempt is over after [`TIMEOUT_MS`], answer's body and all; that
//! of an answer no more than [`ANSWER_BYTES_MAX`] are read, whatever it holds; that the
//! guard has judged the address (`line.rs`); that no redirect is followed. Connections are
//! kept and used again, HTTP/2 where the receiver offers it over TLS.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::claim::{Claimed, Waiting};
use super::line::{Lines, TIMEOUT_MS};
use super::outcome::Outcome;
use super::schedule::parse_retry_after;
use crate::clock::Clock;

/// Whoever took the delivery need not say more: how long its body may take then.
const THANKS_MS_MAX: u64 = 500;
/// How much of an answer is kept.
const ANSWER_HEAD_BYTES_MAX: usize = 256;
/// How much of an answer is read, so that its connection can be used again; a longer one
/// costs the connection.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// The header with the delivery's number at its endpoint.
pub const SEQUENCE_HEADER: &str = "webhook-sequence";

/// Whoever sends.
#[derive(Clone)]
pub(super) struct Sender {
    lines: Lines,
    clock: Clock,
}

impl Sender {
    pub fn new(lines: Lines, clock: Clock) -> Sender {
        Sender { lines, clock }
    }

    /// One attempt; whatever happens is an outcome.
    pub async fn attempt(&self, waiting: Waiting) -> Outcome {
        let (started_at, started) = (self.clock.now(), Instant::now());
        let answer = self.send(&waiting.claimed, started_at).await;
        let (mut status, mut error, mut answer_head, mut retry_after) = (None, None, None, None);
        match answer {
            Ok(answer) => {
                status = Some(answer.status().as_u16());
                retry_after = answer
                    .headers()
                    .get(reqwest::header::RETRY_AFTER)
                    .and_then(|value| parse_retry_after(value.to_str().ok()?, self.clock.now()));
                answer_head = head_of(answer).await;
            }
            Err(said) => error = Some(said),
        }
        Outcome {
            started_at,
            latency: started.elapsed(),
            age: waiting.age(),
            claimed: waiting.claimed,
            status,
            error,
            answer_head,
            retry_after,
            jitter: rand::random(),
            opens: false,
        }
    }

    async fn send(
        &self,
        claimed: &Claimed,
        now: DateTime<Utc>,
    ) -> Result<reqwest::Response, String> {
        let line = self.lines.line(claimed.endpoint_id, claimed.version).await;
        let line = line.map_err(|error| error.to_string())?;
        let mut request = line.request(&claimed.webhook_id, &claimed.body, now);
        if let Some(sequence) = claimed.sequence {
            request = request.header(SEQUENCE_HEADER, sequence);
        }
        let answer = request.send().await;
        // Without the URL: it may hold a secret of the receiver's, and this is logged.
        answer.map_err(|error| with_sources(&error.without_url()))
    }
}

/// The first bytes of an answer. Read on to its end if that is near, so that the
/// connection is free for the next delivery. The status stands whatever becomes of it.
pub(super) async fn head_of(mut answer: reqwest::Response) -> Option<String> {
    let patience = match answer.status().is_success() {
        true => Duration::from_millis(THANKS_MS_MAX),
        false => Duration::from_millis(TIMEOUT_MS),
    };
    let mut head = Vec::new();
    let read = async {
        let mut bytes = 0;
        while bytes < ANSWER_BYTES_MAX
            && let Ok(Some(chunk)) = answer.chunk().await
        {
            bytes += chunk.len();
            let room = ANSWER_HEAD_BYTES_MAX - head.len();
            head.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        }
    };
    if tokio::time::timeout(patience, read).await.is_err() {
        tracing::debug!("an answer's body took too long; what came of it is kept");
    }
    // PostgreSQL's text holds no NUL.
    let text = String::from_utf8_lossy(&head).replace('\0', "\u{fffd}");
    (!text.is_empty()).then_some(text)
}

/// "error sending request" alone does not say why.
pub(super) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
