//! Sending: one POST, and what its answer means.
//!
//! Guarantees that an attempt is over after [`TIMEOUT_MS`], answer's body and all; that
//! of an answer no more than [`ANSWER_BYTES_MAX`] are read, whatever it holds; that the
//! guard has judged the address (`client.rs`); that no redirect is followed. Connections are
//! kept and used again, HTTP/2 where the receiver offers it over TLS. What this machine lacks
//! is never told as the receiver's doing.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;

use super::builder::TIMEOUT_MS;
use super::client::{ClientError, EndpointClient, EndpointClients};
use super::headers::HEADERS_BYTES_MAX;
use super::retry_after::parse_retry_after;
use crate::delivery::transport::{
    AttemptOutcome, Destination, Message, NotSent, Transport, Verdict,
};

/// A receiver that took the delivery need not say more: how long its body may take then.
const THANKS_MS_MAX: u64 = 500;
/// How much of an answer is kept.
const ANSWER_EXCERPT_BYTES_MAX: usize = 256;
/// How much of an answer is read, so that its connection can be used again; a longer one
/// costs the connection.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

impl Transport for EndpointClients {
    async fn send(&self, message: Message<'_>, to: Destination) -> Result<AttemptOutcome, NotSent> {
        let started = Instant::now();
        let client = match self.client(to).await {
            Ok(client) => client,
            Err(error) => return unmade(&error),
        };
        let answer = match client.request(message).send().await {
            Ok(answer) => answer,
            Err(error) => return unanswered(error),
        };
        let status = answer.status();
        let verdict = match status.as_u16() {
            200..300 => Verdict::Delivered,
            410 => Verdict::Gone { reason: "the endpoint answered 410 Gone".to_owned() },
            other => {
                let asked = answer.headers().get(reqwest::header::RETRY_AFTER);
                let now = message.sent_at + started.elapsed();
                let after = asked.and_then(|value| parse_retry_after(value.to_str().ok()?, now));
                Verdict::Retry { after, reason: format!("it answered {other}") }
            }
        };
        let answer_head = head_of(answer, &client).await;
        Ok(AttemptOutcome { verdict, status: Some(status.as_u16()), answer_head })
    }
}

/// Why an endpoint was not even called. That its database is away says nothing of it.
fn unmade(error: &ClientError) -> Result<AttemptOutcome, NotSent> {
    match error {
        // A row that cannot be read is like a secret that cannot be opened.
        ClientError::Database(sqlx::Error::ColumnDecode { .. }) => {}
        ClientError::Database(_) => return Err(NotSent(error.to_string())),
        _ => {}
    }
    Ok(AttemptOutcome::unanswered(error.to_string()))
}

/// Why no answer came: for all that is known it is the receiver's doing, or it is not.
fn unanswered(error: reqwest::Error) -> Result<AttemptOutcome, NotSent> {
    // Without the URL: it may hold a secret of the receiver's, and this is logged.
    let error = error.without_url();
    match lacks(&error) || (error.is_connect() && no_descriptors()) {
        true => Err(NotSent(format!("vitals lacks what it takes: {}", with_sources(&error)))),
        false => Ok(AttemptOutcome::unanswered(with_sources(&error))),
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
async fn head_of(mut answer: reqwest::Response, client: &EndpointClient) -> Option<String> {
    let limit = match answer.status().is_success() {
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
            let room = ANSWER_EXCERPT_BYTES_MAX + HEADERS_BYTES_MAX - head.len();
            head.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        }
    };
    if tokio::time::timeout(limit, read).await.is_err() {
        tracing::debug!("an answer's body took too long; what came of it is kept");
    }
    // PostgreSQL's text holds no NUL.
    let mut text = client.hidden_in(String::from_utf8_lossy(&head).replace('\0', "\u{fffd}"));
    text.truncate(text.floor_char_boundary(ANSWER_EXCERPT_BYTES_MAX));
    (!text.is_empty()).then_some(text)
}

/// "error sending request" alone does not say why.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
