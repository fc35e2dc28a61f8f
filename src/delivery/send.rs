//! Sending: one POST and what came back.
//!
//! Guarantees that an attempt is over after [`TIMEOUT_MS`], answer's body and all; that
//! of an answer no more than [`ANSWER_BYTES_MAX`] are read, whatever it holds; that the
//! guard has judged the address (`line.rs`); that no redirect is followed. Connections are
//! kept and used again, HTTP/2 where the receiver offers it over TLS. What this machine lacks
//! is never told as the receiver's doing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rustix::io::Errno;
use tokio::time::Instant;

use super::claim::{Claimed, Waiting};
use super::line::{HEADERS_BYTES_MAX, Line, LineError, Lines, TIMEOUT_MS};
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

/// The header with the incarnation of the log that the number was given in.
pub const INCARNATION_HEADER: &str = "webhook-incarnation";

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

    /// One attempt; whatever the receiver does is an outcome. What we could not even send is
    /// none: it says nothing of the receiver.
    pub async fn attempt(&self, waiting: Waiting) -> Attempt {
        let (started_at, started) = (self.clock.now(), Instant::now());
        let (mut status, mut error, mut answer_head, mut retry_after) = (None, None, None, None);
        match self.send(&waiting.claimed, started_at).await {
            Ok((line, answer)) => {
                status = Some(answer.status().as_u16());
                retry_after = answer
                    .headers()
                    .get(reqwest::header::RETRY_AFTER)
                    .and_then(|value| parse_retry_after(value.to_str().ok()?, self.clock.now()));
                answer_head = head_of(answer, &line).await;
            }
            Err(Unsent::Theirs(said)) => error = Some(said),
            Err(Unsent::Ours(said)) => return Attempt::NotMade(waiting, said),
        }
        Attempt::Ended(Outcome {
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
        })
    }

    async fn send(
        &self,
        claimed: &Claimed,
        now: DateTime<Utc>,
    ) -> Result<(Arc<Line>, reqwest::Response), Unsent> {
        let line = self.lines.line(claimed.endpoint_id, claimed.version).await?;
        let mut request = line.request(&claimed.webhook_id, &claimed.body, now);
        if let Some(sequence) = claimed.sequence {
            let incarnation = self.lines.history().of_sequence(sequence);
            request = request.header(SEQUENCE_HEADER, sequence);
            request = request.header(INCARNATION_HEADER, incarnation);
        }
        let answer = request.send().await?;
        Ok((line, answer))
    }
}

/// What became of an attempt.
pub(super) enum Attempt {
    /// The receiver did something, or nothing.
    Ended(Outcome),
    /// This machine could not, and why.
    NotMade(Waiting, String),
}

/// Why no answer came.
pub(super) enum Unsent {
    /// For all that is known it is the receiver's doing.
    Theirs(String),
    /// It is not.
    Ours(String),
}

impl From<LineError> for Unsent {
    fn from(error: LineError) -> Unsent {
        match error {
            // A row that cannot be read is like a secret that cannot be opened.
            LineError::Database(sqlx::Error::ColumnDecode { .. }) => {
                Unsent::Theirs(error.to_string())
            }
            LineError::Database(_) => Unsent::Ours(error.to_string()),
            _ => Unsent::Theirs(error.to_string()),
        }
    }
}

impl From<reqwest::Error> for Unsent {
    fn from(error: reqwest::Error) -> Unsent {
        // Without the URL: it may hold a secret of the receiver's, and this is logged.
        let error = error.without_url();
        match lacks(&error) || (error.is_connect() && no_descriptors()) {
            true => Unsent::Ours(format!("vitals lacks what it takes: {}", with_sources(&error))),
            false => Unsent::Theirs(with_sources(&error)),
        }
    }
}

/// Whether this machine had no descriptor or no memory for it.
fn lacks(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    io.is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code))
        || error.source().is_some_and(lacks)
}

/// Whether there are none now. A name that does not resolve for want of them does not say so.
fn no_descriptors() -> bool {
    std::fs::File::open("/dev/null").is_err_and(|error| lacks(&error))
}

/// The first bytes of an answer. Read on to its end if that is near, so that the
/// connection is free for the next delivery. The status stands whatever becomes of it.
pub(super) async fn head_of(mut answer: reqwest::Response, line: &Line) -> Option<String> {
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
            // With room for a secret that would be cut in two, and not be found.
            let room = ANSWER_HEAD_BYTES_MAX + HEADERS_BYTES_MAX - head.len();
            head.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        }
    };
    if tokio::time::timeout(patience, read).await.is_err() {
        tracing::debug!("an answer's body took too long; what came of it is kept");
    }
    // PostgreSQL's text holds no NUL.
    let mut text = line.hide(String::from_utf8_lossy(&head).replace('\0', "\u{fffd}"));
    text.truncate(text.floor_char_boundary(ANSWER_HEAD_BYTES_MAX));
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
