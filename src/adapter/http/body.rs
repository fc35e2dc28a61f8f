//! Bodies as they come in: decoded, bounded, and never waited for without an end.
//!
//! Guarantees that a body is read in constant memory, however much it would become
//! (what [`Incoming::whole`] keeps is limited by what comes out of the encoding); that
//! all bodies together, and the windows of those who undo them, take no more than the
//! process's budget, and those of one subject or tenant no more than their part of it;
//! that a sender who falls silent is given up after [`BODY_STALL_MS_MAX`]; and that who
//! is refused gets the answer rather than a broken connection, within a bounded time.
//! Does not look into what was sent.

use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::io::StreamReader;

use super::problem::Problem;
use crate::limits::shares::{Permit, ShareHolder, Shares};

/// The largest batch of readings, after decoding.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The largest body of everything else.
pub const BODY_BYTES_MAX: usize = PART_BYTES;
/// Room made before anything has come: an announcement is not yet a body. Also what
/// is decoded at once, and what of each body is free: all beyond is of the budget.
const PART_BYTES: usize = 64 * 1024;
/// How long a body waits for the budget, in which others may be done with theirs.
const BUDGET_MS_MAX: u64 = 5_000;
/// How long a body that is refused is read and thrown away, so that its sender gets
/// the answer instead of a broken connection.
const DISCARD_MS_MAX: u64 = 20_000;
/// The same for a stream, which may never end.
const DISCARD_STREAM_MS_MAX: u64 = 1_000;
/// The longest wait for the next part of a body.
const BODY_STALL_MS_MAX: u64 = 15_000;
/// The largest window of zstd, 8 MiB as a power of two: what RFC 9659 lets a sender
/// use, and what one stream may cost.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// What is undone, for those who sent something else.
const ENCODINGS: HeaderValue = HeaderValue::from_static("gzip, zstd");

/// The time in which an answer has to begin, and of what its request's body may take.
#[derive(Clone)]
pub struct Allowance {
    lifted: Arc<AtomicBool>,
    /// `None` where nothing is sent.
    lends: Option<(Arc<Shares>, ShareHolder)>,
}

impl Allowance {
    /// Nothing is lifted, and nothing is held.
    pub fn new(lends: Option<(Arc<Shares>, ShareHolder)>) -> Allowance {
        Allowance { lifted: Arc::default(), lends }
    }

    /// Takes bytes of the budget, if need be when others give some back.
    async fn take(&self, bytes: usize) -> Result<Option<Permit>, Problem> {
        let Some((shares, holder)) = &self.lends else { return Ok(None) };
        let wait = Duration::from_millis(BUDGET_MS_MAX);
        Ok(Some(shares.bodies.lend_within(holder, bytes, wait).await?))
    }

    /// Ends when the time is over, and never once the limit was lifted.
    pub async fn over(&self, after: Duration) {
        sleep(after).await;
        if self.lifted.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

/// What comes off the connection.
type Wire = StreamReader<Parts, Bytes>;

/// A body that has not been read yet.
pub struct Incoming {
    decoded: Decoded,
    announced: Option<usize>,
    /// Sends nothing before we ask for it.
    waits_for_leave: bool,
    ndjson: bool,
    allowance: Option<Allowance>,
    /// What undoing the encoding takes, from the first part on.
    window: Option<Permit>,
}

/// A body that has come, and what it takes of the budget.
pub struct Whole {
    /// All of it.
    pub bytes: Bytes,
    _held: Vec<Permit>,
}

impl Deref for Whole {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<S: Sync> FromRequest<S> for Incoming {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Incoming, Problem> {
        match encoding(request.headers()) {
            Ok(encoding) => Ok(Incoming::new(request, encoding)),
            Err(problem) => {
                discard(request).await;
                Err(problem)
            }
        }
    }
}

/// Reads the body of a request that is refused, and throws it away.
pub async fn discard(request: Request) {
    Incoming::new(request, Encoding::Identity).discard().await;
}

impl Incoming {
    fn new(request: Request, encoding: Encoding) -> Incoming {
        let headers = request.headers();
        let announced = headers.get(header::CONTENT_LENGTH);
        Incoming {
            announced: announced.and_then(|value| value.to_str().ok()?.parse().ok()),
            waits_for_leave: headers.contains_key(header::EXPECT),
            ndjson: is_ndjson(headers),
            allowance: request.extensions().get().cloned(),
            window: None,
            decoded: Decoded::new(encoding, wire(request.into_body())),
        }
    }

    /// Whether it is lines of JSON, as many as there may be.
    pub fn is_ndjson(&self) -> bool {
        self.ndjson
    }

    /// From here on the request may take as long as its body comes.
    pub fn lift_time_limit(&self) {
        if let Some(allowance) = &self.allowance {
            allowance.lifted.store(true, Ordering::Relaxed);
        }
    }

    /// All of it, at most `most` bytes.
    pub async fn whole(mut self, most: usize) -> Result<Whole, Problem> {
        let announced = self.announced.unwrap_or(0);
        if announced > most {
            self.discard().await;
            return Err(too_large(most));
        }
        let mut body = Vec::with_capacity(announced.min(PART_BYTES));
        let mut held = Vec::new();
        loop {
            let length = self.part().await?.len();
            if length == 0 {
                return Ok(Whole { bytes: body.into(), _held: held });
            }
            let needed = body.len() + length;
            if needed > most {
                self.discard().await;
                return Err(too_large(most));
            }
            if needed > body.capacity() {
                // All that was announced at once: two who wait for each other's rest would
                // both wait in vain.
                let grown = announced.max(2 * body.capacity());
                let capacity = needed.max(grown.min(most));
                let free = body.capacity().max(PART_BYTES);
                if capacity > free {
                    held.extend(self.take(capacity - free).await?);
                }
                body.reserve_exact(capacity - body.len());
            }
            // The same again: nothing was consumed.
            body.extend_from_slice(&self.part().await?[..length]);
            self.consume(length);
        }
    }

    /// The next part, decoded; empty at the end. It comes again until it is consumed,
    /// and nothing is lost when the wait for it is given up.
    pub async fn part(&mut self) -> Result<&[u8], Problem> {
        self.waits_for_leave = false;
        if self.window.is_none() && matches!(self.decoded, Decoded::Zstd(_)) {
            // Who has sent nothing yet takes nothing yet.
            self.decoded.wire().fill_buf().await.map_err(broken)?;
            self.window = self.take(1 << ZSTD_WINDOW_LOG_MAX).await?;
        }
        self.decoded.part().await.map_err(broken)
    }

    /// Takes bytes of the budget; who gets none gets the answer.
    async fn take(&mut self, bytes: usize) -> Result<Option<Permit>, Problem> {
        let Some(allowance) = &self.allowance else { return Ok(None) };
        let taken = allowance.take(bytes).await;
        if taken.is_err() {
            self.discard().await;
        }
        taken
    }

    /// Takes so many bytes off the front.
    pub fn consume(&mut self, bytes: usize) {
        self.decoded.consume(bytes);
    }

    /// Reads what is left off the connection, for a bounded time, and does not decode
    /// it. A body whose sender waits for leave to send it does not come.
    pub async fn discard(&mut self) {
        if self.waits_for_leave {
            return;
        }
        let most = if self.ndjson { DISCARD_STREAM_MS_MAX } else { DISCARD_MS_MAX };
        let until = Instant::now() + Duration::from_millis(most);
        let wire = self.decoded.wire();
        while let Ok(Ok(part)) = tokio::time::timeout_at(until, wire.fill_buf()).await {
            let length = part.len();
            if length == 0 {
                return;
            }
            wire.consume(length);
        }
    }
}

/// A body with its encoding undone. Decoders keep their state to themselves: they are
/// boxed, so that a plain body does not pay for them.
enum Decoded {
    Plain(Wire),
    Gzip(Box<BufReader<GzipDecoder<Wire>>>),
    Zstd(Box<BufReader<ZstdDecoder<Wire>>>),
}

impl Decoded {
    fn new(encoding: Encoding, wire: Wire) -> Decoded {
        match encoding {
            Encoding::Identity => Decoded::Plain(wire),
            Encoding::Gzip => {
                let mut decoder = GzipDecoder::new(wire);
                decoder.multiple_members(true);
                Decoded::Gzip(Box::new(BufReader::with_capacity(PART_BYTES, decoder)))
            }
            Encoding::Zstd => {
                let window = DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX);
                let mut decoder = ZstdDecoder::with_params(wire, &[window]);
                decoder.multiple_members(true);
                Decoded::Zstd(Box::new(BufReader::with_capacity(PART_BYTES, decoder)))
            }
        }
    }

    async fn part(&mut self) -> io::Result<&[u8]> {
        match self {
            Decoded::Plain(wire) => wire.fill_buf().await,
            Decoded::Gzip(decoded) => decoded.fill_buf().await,
            Decoded::Zstd(decoded) => decoded.fill_buf().await,
        }
    }

    fn consume(&mut self, bytes: usize) {
        match self {
            Decoded::Plain(wire) => Pin::new(wire).consume(bytes),
            Decoded::Gzip(decoded) => Pin::new(decoded).consume(bytes),
            Decoded::Zstd(decoded) => Pin::new(decoded).consume(bytes),
        }
    }

    fn wire(&mut self) -> &mut Wire {
        match self {
            Decoded::Plain(wire) => wire,
            Decoded::Gzip(decoded) => decoded.get_mut().get_mut(),
            Decoded::Zstd(decoded) => decoded.get_mut().get_mut(),
        }
    }
}

fn wire(body: Body) -> Wire {
    StreamReader::new(Parts { body: body.into_data_stream(), stall: None })
}

/// What comes off the connection, or why nothing comes: two kinds of errors that no
/// decoder makes.
struct Parts {
    body: BodyDataStream,
    /// Runs while nothing comes: most bodies are there with their heads.
    stall: Option<Pin<Box<Sleep>>>,
}

impl Stream for Parts {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(part) = self.body.poll_next_unpin(context) {
            self.stall = None;
            return Poll::Ready(
                part.map(|p| p.map_err(|_| io::ErrorKind::ConnectionAborted.into())),
            );
        }
        let longest = Duration::from_millis(BODY_STALL_MS_MAX);
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(longest)));
        ready!(stall.as_mut().poll(context));
        self.stall = None;
        Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())))
    }
}

fn broken(error: io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::TimedOut => {
            Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive")
        }
        io::ErrorKind::ConnectionAborted => {
            Problem::unreadable("body_broken_off", "the body ended before it was complete")
        }
        _ => {
            let detail = format!("the body is not what its Content-Encoding says: {error}");
            Problem::unreadable("unreadable_encoding", detail)
        }
    }
}

fn too_large(most: usize) -> Problem {
    let detail = format!("the body is larger than {most} bytes: make it smaller, or split it");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

/// What is undone.
#[derive(Clone, Copy)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// One encoding, or none. Several in a row would multiply what a small body becomes.
fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    // What is no text is no encoding either.
    let names = values.flat_map(|value| value.to_str().unwrap_or("unknown").split(','));
    let names: Vec<String> = names
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty() && name != "identity")
        .collect();
    match names.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(Encoding::Identity),
        ["gzip" | "x-gzip"] => Ok(Encoding::Gzip),
        ["zstd"] => Ok(Encoding::Zstd),
        _ => {
            let detail = "send the body as it is, or with one Content-Encoding: gzip or zstd";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            Err(Problem::new(status, "encoding_not_supported", detail)
                .header(header::ACCEPT_ENCODING, ENCODINGS))
        }
    }
}

fn is_ndjson(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    ["application/x-ndjson", "application/ndjson"].iter().any(|k| kind.eq_ignore_ascii_case(k))
}
