//! Connections: how many there are, and how long each may say nothing.
//!
//! Guarantees that there are never more than the process has descriptors for, beside those
//! that pages, the database and files need; that a head which does not come, and a silence
//! between two requests, end after a bounded time; and that a newcomer finds a place as
//! long as any connection only waits: the one that waits longest goes, of those first on
//! which no good token was sent yet. HTTP/1.1 alone is spoken. What was refused is counted and told. Does not look at requests: who asks too
//! much is refused behind this.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Sleep, Timer, Write};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
#[cfg(target_os = "linux")]
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::entry_point::EntryPoint;
use super::problem::Problem;
use super::ratelimit;

/// How long a request's head may take, from its first byte.
const HEAD_MS_MAX: u64 = 10_000;
/// How long a new connection may say nothing. A client that is starved has opened it and
/// not got to its request yet; where places are few it makes room sooner.
const NEW_MS_MAX: u64 = 30_000;
/// How long a connection may be silent between two requests. Balancers keep theirs for a
/// minute, and must be the first to close them.
const IDLE_MS_MAX: u64 = 75_000;
/// How often that is looked at.
const LOOK_MS: u64 = 500;
/// The largest head, with all of its headers; also how much is read or written at once.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long a client may take nothing of what was sent to it before its connection is cut.
#[cfg(target_os = "linux")]
const UNTAKEN_MS_MAX: u32 = 30_000;
/// Connections that were ended to make room and still have their descriptors. Newcomers wait
/// while there are as many: they must not come faster than the others go.
const ENDING_MAX: usize = 32;
/// The pause after a connection could not be taken for want of something of the machine's.
const WANT_PAUSE_MS: u64 = 50;

/// Answers whoever connects, with `most` connections at one time, until `stop`; then ends
/// when what was under way is answered.
pub async fn serve(listener: TcpListener, front: EntryPoint, most: usize, stop: CancellationToken) {
    let open = Arc::new(Connections {
        most,
        started: Instant::now(),
        places: Mutex::default(),
        ending: AtomicUsize::new(0),
        gone: Notify::new(),
    });
    let tracker = TaskTracker::new();
    let mut look = tokio::time::interval(Duration::from_millis(LOOK_MS));
    let mut number = 0;
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => {
                open.end_late();
                continue;
            }
            accepted = open.next(&listener) => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    open.wants(&error).await;
                    continue;
                }
            },
        };
        number += 1;
        match open.place(number) {
            Some(place) => {
                set_up(&stream);
                tracker.spawn(answer(stream, front.clone(), place, stop.clone()));
            }
            None => refuse(&stream),
        }
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

async fn answer(
    stream: TcpStream,
    front: EntryPoint,
    place: OpenConnection,
    stop: CancellationToken,
) {
    let seen = place.seen.clone();
    let io = Watched { io: TokioIo::new(stream), seen: seen.clone() };
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        seen.asks();
        let answer = front.clone().call(request.map(Body::new));
        async {
            let answer = answer.await;
            let is_known = answer.as_ref().is_ok_and(|a| ratelimit::is_of_known(a.headers()));
            seen.known.fetch_or(is_known, Ordering::Relaxed);
            answer
        }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(Waits(seen.clone()))
            .header_read_timeout(Duration::from_millis(HEAD_MS_MAX))
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(io, service)
    );
    let mut stopping = false;
    loop {
        tokio::select! {
            // First, so that a request which has come is seen before its connection ends.
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!(%error, "a connection ended");
                }
                break;
            }
            () = seen.close.notified() => {
                if seen.phase().0 != Phase::Busy {
                    break;
                }
                place.stays();
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

fn set_up(stream: &TcpStream) {
    // An answer is one small packet: it must not wait for a second one.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was not set");
    }
    // Who takes nothing of what was sent is gone, or as good as: its connection must not
    // keep a stream's place. Elsewhere TCP itself gives up, later.
    #[cfg(target_os = "linux")]
    if let Err(error) = set_tcp_user_timeout(stream, UNTAKEN_MS_MAX) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT was not set");
    }
}

/// Tells a connection that there is no place, if it can be told at once.
fn refuse(stream: &TcpStream) {
    metrics::counter!("vitals_refused_total", "limit" => "connections", "whose" => "process")
        .increment(1);
    let detail = "all connections of this process are in use: try again; the operator raises \
                  --connections, and the process's limit of open files if need be";
    let problem = Problem::unavailable("too_many_connections", detail).with(|document| {
        document.limit = Some("connections");
        document.whose = Some("process");
    });
    let body = problem.text();
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
                retry-after: 1\r\nconnection: close\r\ncontent-length:";
    let answer = format!("{head} {}\r\n\r\n{body}", body.len());
    if let Err(error) = stream.try_write(answer.as_bytes()) {
        tracing::trace!(%error, "a refused connection was not told");
    }
}

/// The connections of a process.
struct Connections {
    most: usize,
    started: Instant,
    places: Mutex<HashMap<u64, Arc<Seen>>>,
    /// See [`ENDING_MAX`].
    ending: AtomicUsize,
    /// One of them is gone.
    gone: Notify,
}

impl Connections {
    fn places(&self) -> MutexGuard<'_, HashMap<u64, Arc<Seen>>> {
        // A map of whole values: a panic elsewhere did not spoil it.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next connection, once few enough are ending.
    async fn next(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        while self.ending.load(Ordering::Relaxed) >= ENDING_MAX {
            self.gone.notified().await;
        }
        listener.accept().await
    }

    /// A place for one more, if need be that of the one that has waited longest.
    fn place(self: &Arc<Connections>, number: u64) -> Option<OpenConnection> {
        let mut places = self.places();
        if places.len() >= self.most && !self.make_room(&mut places) {
            return None;
        }
        let (state, close) = (AtomicU64::new(Phase::New as u64), Notify::new());
        let known = AtomicBool::new(false);
        let seen = Arc::new(Seen { started: self.started, state, known, close });
        seen.enter(Phase::New);
        places.insert(number, seen.clone());
        metrics::gauge!("vitals_connections").set(places.len() as f64);
        Some(OpenConnection { open: self.clone(), number, seen })
    }

    /// Ends what has waited for too long.
    fn end_late(&self) {
        for seen in self.places().values() {
            let (phase, since) = seen.phase();
            let most = match phase {
                Phase::Busy => continue,
                Phase::New => NEW_MS_MAX,
                Phase::Head => HEAD_MS_MAX,
                Phase::Idle => IDLE_MS_MAX,
            };
            if seen.now_ms().saturating_sub(since) > most {
                if phase != Phase::Idle {
                    count_late_head();
                }
                seen.close.notify_one();
            }
        }
    }

    /// Something of the machine's is used up, mostly descriptors: whoever waits makes room.
    async fn wants(&self, error: &io::Error) {
        let gone = [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset];
        if gone.contains(&error.kind()) {
            return;
        }
        tracing::error!(%error, "a connection could not be taken");
        metrics::counter!("vitals_refused_total", "limit" => "descriptors", "whose" => "process")
            .increment(1);
        self.make_room(&mut self.places());
        tokio::time::sleep(Duration::from_millis(WANT_PAUSE_MS)).await;
    }

    /// One less is ending.
    fn one_less_ends(&self) {
        self.ending.fetch_sub(1, Ordering::Relaxed);
        self.gone.notify_one();
    }

    /// Ends the connection that waits longest for a request; whether there is one. Whoever
    /// opens many and says nothing must not end those of a ward, which wait from one reading
    /// to the next.
    fn make_room(&self, places: &mut HashMap<u64, Arc<Seen>>) -> bool {
        let waiting = places.iter().filter(|(_, seen)| seen.phase().0 != Phase::Busy);
        let first =
            waiting.min_by_key(|(_, seen)| (seen.known.load(Ordering::Relaxed), seen.phase().1));
        let Some(number) = first.map(|(number, _)| *number) else { return false };
        if let Some(seen) = places.remove(&number) {
            metrics::counter!("vitals_refused_total", "limit" => "idle_connections", "whose" => "process")
            .increment(1);
            self.ending.fetch_add(1, Ordering::Relaxed);
            seen.close.notify_one();
        }
        true
    }
}

fn count_late_head() {
    metrics::counter!("vitals_refused_total", "limit" => "head_time", "whose" => "process")
        .increment(1);
}

/// A connection's place, until it is dropped.
struct OpenConnection {
    open: Arc<Connections>,
    number: u64,
    seen: Arc<Seen>,
}

impl OpenConnection {
    /// It was to make room, and a request had come by then.
    fn stays(&self) {
        if self.open.places().insert(self.number, self.seen.clone()).is_none() {
            self.open.one_less_ends();
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut places = self.open.places();
        if places.remove(&self.number).is_none() {
            self.open.one_less_ends();
        }
        metrics::gauge!("vitals_connections").set(places.len() as f64);
    }
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
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
struct Seen {
    started: Instant,
    /// A phase in the last two bits, and since when, in milliseconds.
    state: AtomicU64,
    /// A good token was sent on it.
    known: AtomicBool,
    close: Notify,
}

impl Seen {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX >> 2)
    }

    fn enter(&self, phase: Phase) {
        self.state.store(self.now_ms() << 2 | phase as u64, Ordering::Relaxed);
    }

    fn phase(&self) -> (Phase, u64) {
        let state = self.state.load(Ordering::Relaxed);
        let phase = match state & 3 {
            0 => Phase::Busy,
            1 => Phase::New,
            2 => Phase::Head,
            _ => Phase::Idle,
        };
        (phase, state >> 2)
    }

    /// A request's head is there.
    fn asks(&self) {
        self.state.store(Phase::Busy as u64, Ordering::Relaxed);
    }

    /// Its answer is sent: it waits for the next one.
    fn waits(&self) {
        if self.phase().0 == Phase::Busy {
            self.enter(Phase::Idle);
        }
    }

    /// Some bytes came.
    fn came(&self) {
        if matches!(self.phase().0, Phase::New | Phase::Idle) {
            self.enter(Phase::Head);
        }
    }
}

/// hyper asks for a timer whenever it begins to wait for a head. That moment is what is
/// wanted: one look at all connections is cheaper than a timer for each of their requests.
struct Waits(Arc<Seen>);

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
struct Watched {
    io: TokioIo<TcpStream>,
    seen: Arc<Seen>,
}

impl Read for Watched {
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

impl Write for Watched {
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
