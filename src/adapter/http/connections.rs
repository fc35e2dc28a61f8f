//! Connections: how many there are, and how long each may say nothing.
//!
//! Guarantees that there are never more than the process has descriptors for, beside those
//! that pages, the database and files need; that a head which does not come, and a silence
//! between two requests, end after a bounded time; and that a newcomer finds a place as
//! long as any connection only waits: the one that waits longest goes, of those first on which no
//! good token was sent yet. HTTP/1.1 is spoken, and behind TLS HTTP/2. What was refused
//! is counted and told. Does not look at requests: who asks too much is refused behind this.

mod http2;
pub mod tls;
mod watch;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
#[cfg(target_os = "linux")]
use parking_lot::{Mutex, MutexGuard};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use self::tls::{CertificateCaller, TRUST_MS, Tls};
use self::watch::{ConnectionState, Phase, Waits, Watched};
use super::accessed::Peer;
use super::entry_point::EntryPoint;
use super::problem::Problem;
use super::ratelimit;

/// How long a request's head may take, from its first byte.
const HEAD_MS_MAX: u64 = 10_000;
/// How long a new connection may say nothing. A client that is starved has opened it and
/// not got to its request yet; where few may be open it makes room sooner.
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
/// Browsers that were here by TLS do not come without it for a year (RFC 6797).
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");
/// The pause after a connection could not be taken for want of something of the machine's.
const WANT_PAUSE_MS: u64 = 50;

/// Answers whoever connects, with `most` connections at one time, until `stop`; then ends
/// when what was under way is answered.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    entry_point: EntryPoint,
    most: usize,
    stop: CancellationToken,
) {
    let open = Arc::new(Connections {
        most,
        started: Instant::now(),
        open: Mutex::default(),
        ending: AtomicUsize::new(0),
        gone: Notify::new(),
    });
    let tracker = TaskTracker::new();
    let mut look = tokio::time::interval(Duration::from_millis(LOOK_MS));
    let mut number = 0;
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => {
                open.end_late();
                continue;
            }
            accepted = open.next(&listener) => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    open.wants(&error).await;
                    continue;
                }
            },
        };
        number += 1;
        match open.admit(number, peer.ip()) {
            Some(counted) => {
                set_up(&stream);
                let connection = Connection {
                    entry_point: entry_point.clone(),
                    seen: counted.seen.clone(),
                    counted,
                    stop: stop.clone(),
                };
                match &tls {
                    None => tracker.spawn(connection.plain(stream)),
                    Some(tls) => tracker.spawn(connection.encrypted(stream, tls.current())),
                };
            }
            None if tls.is_some() => count_refused(),
            None => refuse(&stream),
        }
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

/// One of them, on its own task.
struct Connection {
    entry_point: EntryPoint,
    seen: Arc<ConnectionState>,
    counted: OpenConnection,
    stop: CancellationToken,
}

impl Connection {
    async fn plain(self, stream: TcpStream) {
        self.http1(stream, None, CancellationToken::new()).await;
    }

    async fn encrypted(self, stream: TcpStream, tls: Arc<tls::Current>) {
        let stream = tokio::select! {
            met = tls.accept(stream) => match met {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    metrics::counter!("vitals_tls_handshake_failures_total").increment(1);
                    return;
                }
            },
            () = self.seen.close.notified() => return,
            () = self.stop.cancelled() => return,
        };
        let by = Some(Encrypted { caller: tls.caller(&stream) });
        let distrusted = tls.distrusted.clone();
        match tls::is_http2(&stream) {
            true => self.http2(stream, by, distrusted).await,
            false => self.http1(stream, by, distrusted).await,
        }
    }

    async fn http1(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        by: Option<Encrypted>,
        distrusted: CancellationToken,
    ) {
        let seen = self.seen.clone();
        let io = Watched { io: TokioIo::new(stream), seen: seen.clone() };
        let service = hyper::service::service_fn(|request: Request<Incoming>| {
            seen.asks();
            answer(self.entry_point.clone(), request, by.clone(), seen.clone())
        });
        let connection = http1::Builder::new()
            .timer(Waits(seen.clone()))
            .header_read_timeout(Duration::from_millis(HEAD_MS_MAX))
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(io, service);
        self.until_its_end(connection, distrusted, |c| c.graceful_shutdown()).await;
    }

    async fn http2(
        self,
        stream: TlsStream<TcpStream>,
        by: Option<Encrypted>,
        distrusted: CancellationToken,
    ) {
        let service = hyper::service::service_fn(|request: Request<Incoming>| {
            let (under_way, seen) = (http2::UnderWay::begin(&self.seen), self.seen.clone());
            let answer = answer(self.entry_point.clone(), request, by.clone(), seen);
            async { answer.await.map(|answer| under_way.until_sent(answer)) }
        });
        let connection =
            http2::builder(HEAD_BYTES_MAX).serve_connection(TokioIo::new(stream), service);
        self.until_its_end(connection, distrusted, |c| c.graceful_shutdown()).await;
    }

    async fn until_its_end<C>(
        &self,
        connection: C,
        distrusted: CancellationToken,
        finish: impl Fn(Pin<&mut C>),
    ) where
        C: Future<Output = hyper::Result<()>>,
    {
        let mut connection = std::pin::pin!(connection);
        let (mut is_finishing, mut distrusted_at) = (false, None::<tokio::time::Instant>);
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
                () = self.seen.close.notified() => {
                    if self.seen.phase().0 != Phase::Busy {
                        break;
                    }
                    self.counted.stays();
                }
                () = self.stop.cancelled(), if !is_finishing => {
                    is_finishing = true;
                    finish(connection.as_mut());
                }
                () = distrusted.cancelled(), if distrusted_at.is_none() => {
                    distrusted_at = Some(tokio::time::Instant::now());
                    finish(connection.as_mut());
                }
                () = over(distrusted_at) => break,
            }
        }
    }
}

/// The end of what may still be answered to who is not trusted any more.
async fn over(distrusted_at: Option<tokio::time::Instant>) {
    match distrusted_at {
        Some(at) => tokio::time::sleep_until(at + Duration::from_millis(TRUST_MS)).await,
        None => std::future::pending().await,
    }
}

/// What is known of the other end of a connection with TLS.
#[derive(Clone)]
struct Encrypted {
    caller: Option<CertificateCaller>,
}

/// Answers one request.
fn answer(
    mut entry_point: EntryPoint,
    request: Request<Incoming>,
    by: Option<Encrypted>,
    seen: Arc<ConnectionState>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> {
    let mut request = request.map(Body::new);
    let is_encrypted = by.is_some();
    request.extensions_mut().insert(Peer(seen.peer));
    if let Some(caller) = by.and_then(|by| by.caller) {
        request.extensions_mut().insert(caller);
    }
    let answer = entry_point.call(request);
    async move {
        let mut answer = answer.await?;
        seen.known.fetch_or(ratelimit::is_of_known(answer.headers()), Ordering::Relaxed);
        if is_encrypted {
            answer.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
        }
        Ok(answer)
    }
}

fn set_up(stream: &TcpStream) {
    // An answer is one small packet: it must not wait for a second one.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was not set");
    }
    // Who takes nothing of what was sent is gone, or as good as: its connection must not
    // keep a stream open. Elsewhere TCP itself gives up, later.
    #[cfg(target_os = "linux")]
    if let Err(error) = set_tcp_user_timeout(stream, UNTAKEN_MS_MAX) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT was not set");
    }
}

/// Tells a connection that there is no place, if it can be told at once.
fn refuse(stream: &TcpStream) {
    count_refused();
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

fn count_refused() {
    metrics::counter!("vitals_refused_total", "limit" => "connections", "whose" => "process")
        .increment(1);
}

/// The connections of a process.
struct Connections {
    most: usize,
    started: Instant,
    open: Mutex<HashMap<u64, Arc<ConnectionState>>>,
    /// See [`ENDING_MAX`].
    ending: AtomicUsize,
    /// One of them is gone.
    gone: Notify,
}

impl Connections {
    fn all(&self) -> MutexGuard<'_, HashMap<u64, Arc<ConnectionState>>> {
        self.open.lock()
    }

    /// The next connection, once few enough are ending.
    async fn next(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        while self.ending.load(Ordering::Relaxed) >= ENDING_MAX {
            self.gone.notified().await;
        }
        listener.accept().await
    }

    /// Admits one more; if there are too many, the one that has waited longest is closed.
    fn admit(self: &Arc<Connections>, number: u64, peer: IpAddr) -> Option<OpenConnection> {
        let mut open = self.all();
        if open.len() >= self.most && !self.make_room(&mut open) {
            return None;
        }
        let (state, close) = (AtomicU64::new(Phase::New as u64), Notify::new());
        let (known, under_way) = (AtomicBool::new(false), AtomicU32::new(0));
        let started = self.started;
        let seen = ConnectionState { started, peer, state, under_way, known, close };
        let seen = Arc::new(seen);
        seen.enter(Phase::New);
        open.insert(number, seen.clone());
        metrics::gauge!("vitals_connections").set(open.len() as f64);
        Some(OpenConnection { open: self.clone(), number, seen })
    }

    /// Ends what has waited for too long.
    fn end_late(&self) {
        for seen in self.all().values() {
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
        self.make_room(&mut self.all());
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
    fn make_room(&self, open: &mut HashMap<u64, Arc<ConnectionState>>) -> bool {
        let waiting = open.iter().filter(|(_, seen)| seen.phase().0 != Phase::Busy);
        let first =
            waiting.min_by_key(|(_, seen)| (seen.known.load(Ordering::Relaxed), seen.phase().1));
        let Some(number) = first.map(|(number, _)| *number) else { return false };
        if let Some(seen) = open.remove(&number) {
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

/// One open connection, counted until it is dropped.
struct OpenConnection {
    open: Arc<Connections>,
    number: u64,
    seen: Arc<ConnectionState>,
}

impl OpenConnection {
    /// It was to make room, and a request had come by then.
    fn stays(&self) {
        if self.open.all().insert(self.number, self.seen.clone()).is_none() {
            self.open.one_less_ends();
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.open.all();
        if open.remove(&self.number).is_none() {
            self.open.one_less_ends();
        }
        metrics::gauge!("vitals_connections").set(open.len() as f64);
    }
}
