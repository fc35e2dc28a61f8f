//! HTTP/2: what one connection may hold, and when it waits.
//!
//! Guarantees that a connection is busy from the first byte of a request to the last of its
//! answer, for as many as it has under way at one time, and idle otherwise: so the same hand
//! ends it as one of HTTP/1.1. What a client can make it hold is bounded by the limits here.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::watch::{ConnectionState, Phase};

/// Requests under way on one connection. What they ask for is bounded by their asker's share.
const STREAMS_MAX: u32 = 100;
/// Bytes of a body that come before somebody reads them; of all bodies of a connection four
/// times that.
const WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes of an answer that wait to be taken.
const SENT_BYTES_MAX: usize = 64 * 1024;

/// How often a connection that says nothing is asked whether it is still there.
const PING_MS: u64 = 30_000;
/// How long it may take to say so.
const PONG_MS_MAX: u64 = 20_000;

/// How connections are answered.
pub(super) fn builder(head_bytes_max: usize) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_millis(PING_MS))
        .keep_alive_timeout(Duration::from_millis(PONG_MS_MAX))
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_send_buf_size(SENT_BYTES_MAX)
        .max_header_list_size(u32::try_from(head_bytes_max).unwrap_or(u32::MAX));
    builder
}

/// A request that is under way, until this is dropped.
pub(super) struct UnderWay(Arc<ConnectionState>);

impl UnderWay {
    pub(super) fn begin(seen: &Arc<ConnectionState>) -> UnderWay {
        seen.under_way.fetch_add(1, Ordering::Relaxed);
        seen.asks();
        UnderWay(seen.clone())
    }

    /// It is, until the last byte of its answer is taken.
    pub(super) fn until_sent(self, answer: Response<Body>) -> Response<Body> {
        answer.map(|body| Body::new(Sent { body, _under_way: self }))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.enter(Phase::Idle);
        }
    }
}

/// A body that ends what is under way.
struct Sent {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
