//! What is known of a connection while it is open: whether it waits, since when, and whether
//! a good token has come by it.
//!
//! Guarantees that the first byte of a head and the wait for the next one are noticed as they
//! happen. Does not end a connection: `close` asks for it.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBufCursor, Sleep, Timer, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It asks, and is answered.
    Busy = 0,
    /// It has not asked for anything yet.
    New = 1,
    /// A head has begun.
    Head = 2,
    /// It waits for its next request.
    Idle = 3,
}

/// What is known of a connection, by all who need it.
pub(super) struct ConnectionState {
    pub(super) started: Instant,
    /// Its other end.
    pub(super) peer: IpAddr,
    /// A phase in the last two bits, and since when, in milliseconds.
    pub(super) state: AtomicU64,
    /// Requests of HTTP/2 that are not answered to the end.
    pub(super) under_way: AtomicU32,
    /// A good token was sent on it.
    pub(super) known: AtomicBool,
    pub(super) close: Notify,
}

impl ConnectionState {
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX >> 2)
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.state.store(self.now_ms() << 2 | phase as u64, Ordering::Relaxed);
    }

    pub(super) fn phase(&self) -> (Phase, u64) {
        let state = self.state.load(Ordering::Relaxed);
        let phase = match state & 3 {
            _ if self.under_way.load(Ordering::Relaxed) > 0 => Phase::Busy,
            0 => Phase::Busy,
            1 => Phase::New,
            2 => Phase::Head,
            _ => Phase::Idle,
        };
        (phase, state >> 2)
    }

    /// A request's head is there.
    pub(super) fn asks(&self) {
        self.state.store(Phase::Busy as u64, Ordering::Relaxed);
    }

    /// Its answer is sent: it waits for the next one.
    pub(super) fn waits(&self) {
        if self.phase().0 == Phase::Busy {
            self.enter(Phase::Idle);
        }
    }

    /// Some bytes came.
    pub(super) fn came(&self) {
        if matches!(self.phase().0, Phase::New | Phase::Idle) {
            self.enter(Phase::Head);
        }
    }
}

/// hyper asks for a timer whenever it begins to wait for a head. That moment is what is
/// wanted: one look at all connections is cheaper than a timer for each of their requests.
pub(super) struct Waits(pub(super) Arc<ConnectionState>);

impl Timer for Waits {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Never)
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.0.waits();
        Box::pin(Never)
    }
}

struct Never;

impl Future for Never {
    type Output = ();
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Sleep for Never {}

/// A connection whose first byte of a head is noticed.
pub(super) struct Watched<S> {
    pub(super) io: TokioIo<S>,
    pub(super) seen: Arc<ConnectionState>,
}

impl<S: AsyncRead + Unpin> Read for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        if read.is_ready() {
            self.seen.came();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> Write for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }
}
