//! How an endpoint is called: its address, its keys, its headers, its certificate.
//!
//! Guarantees that a request carries the headers of Standard Webhooks, with a signature
//! of every key that signs at that moment; that no header of the endpoint's own takes
//! their place; and that the guard let its URL through. What was made of an endpoint is
//! kept as long as its row has the same version in the same incarnation of the log, so that
//! sending opens no secret.
//!
//! Does not send, and does not judge answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use sqlx::PgPool;
use uuid::Uuid;

use super::endpoint::{self, Endpoint};
use super::guard::{Guard, Refused};
use super::key::{Key, KeyError, Keys};
use super::seal::{OpenError, Seal};
use super::sign::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};
use crate::log::{History, Log, answered};

/// An answer later than this is none.
pub const TIMEOUT_MS: u64 = 5_000;
/// How many lines a process keeps before it begins anew.
const LINES_MAX: usize = 10_000;
/// Headers of an answer.
const ANSWER_HEADERS_MAX: usize = 1_000;
/// All headers of an answer by HTTP/2. By HTTP/1 it is what its client reads at once, about
/// as much.
const ANSWER_HEAD_BYTES_MAX: u32 = 256 * 1_024;
/// Words of secret headers that are hidden in what a receiver answers; shorter ones would
/// be found everywhere.
const HIDDEN_BYTES_MIN: usize = 6;
/// Headers of an endpoint's own.
pub const HEADERS_MAX: usize = 20;
/// All their names and values together.
pub const HEADERS_BYTES_MAX: usize = 4_096;
/// A certificate with its chain, and a key.
pub const PEM_BYTES_MAX: usize = 32 * 1_024;

/// What HTTP itself needs, beside everything that begins with `webhook-`, `proxy-`.
const RESERVED: [&str; 11] = [
    "host",
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
];

/// Why an endpoint cannot be called as it is stored.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// It is gone.
    #[error("the endpoint was deleted")]
    Gone,
    /// PostgreSQL said no, or is gone.
    #[error("reading the endpoint: {0}")]
    Database(#[from] sqlx::Error),
    /// Inwards, or no URL at all.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// The key for secrets is missing, or somebody changed the row.
    #[error("the endpoint's secrets cannot be opened: {0}")]
    Sealed(#[from] OpenError),
    /// Not a key.
    #[error("the endpoint's secret: {0}")]
    Key(#[from] KeyError),
    /// Not headers.
    #[error("the endpoint's headers: {0}")]
    Headers(#[from] HeadersError),
    /// No client of its own.
    #[error("making a client for the endpoint: {0}")]
    Client(reqwest::Error),
    /// Not a certificate and its key.
    #[error("the endpoint's client certificate: {0}")]
    Certificate(#[from] CertificateError),
}

/// An endpoint, ready to be called.
#[derive(Debug)]
pub struct Line {
    version: i32,
    url: reqwest::Url,
    keys: Keys,
    headers: HeaderMap,
    client: reqwest::Client,
}

impl Line {
    /// One attempt's request. The body is signed as it is, and sent to the letter.
    pub fn request(&self, id: &str, body: &str, now: DateTime<Utc>) -> reqwest::RequestBuilder {
        self.client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .header(ID_HEADER, id)
            .header(TIMESTAMP_HEADER, now.timestamp())
            .header(SIGNATURE_HEADER, self.keys.sign(id, now, body.as_bytes()))
            .body(body.to_owned())
    }

    /// A text of the receiver's, without what only it and we know: some answer with what
    /// they were sent, and what they answer is shown.
    pub(super) fn hide(&self, mut text: String) -> String {
        let values = self.headers.values().filter(|value| value.is_sensitive());
        for word in values.filter_map(|value| value.to_str().ok()).flat_map(str::split_whitespace) {
            if word.len() >= HIDDEN_BYTES_MIN {
                text = text.replace(word, "…");
            }
        }
        text
    }
}

/// The lines of a process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Exchange>);

#[derive(Debug)]
struct Exchange {
    pool: PgPool,
    history: History,
    guard: Guard,
    seal: Seal,
    /// For all endpoints without a certificate of their own.
    client: reqwest::Client,
    /// Of one incarnation: after a restore the same version may be of something else.
    known: Mutex<(i64, HashMap<Uuid, Arc<Line>>)>,
}

impl Lines {
    /// Lines to what `guard` permits, with the secrets that `seal` opens.
    pub fn new(log: &Log, guard: Guard, seal: Seal) -> Result<Lines, reqwest::Error> {
        let client = client(&guard).build()?;
        let (pool, history) = (log.pool().clone(), log.history().clone());
        let known = Mutex::default();
        Ok(Lines(Arc::new(Exchange { pool, history, guard, seal, client, known })))
    }

    /// What secrets are sealed with.
    pub fn seal(&self) -> &Seal {
        &self.0.seal
    }

    /// The histories of the log that the endpoints are told of.
    pub fn history(&self) -> &History {
        &self.0.history
    }

    /// What may be reached.
    pub fn guard(&self) -> &Guard {
        &self.0.guard
    }

    /// The line to an endpoint whose row had this version, or a newer one.
    pub async fn line(&self, endpoint: Uuid, version: i32) -> Result<Arc<Line>, LineError> {
        let incarnation = self.0.history.number();
        let known = self.known(incarnation, |lines| lines.get(&endpoint).cloned());
        if let Some(line) = known.filter(|line| line.version >= version) {
            return Ok(line);
        }
        let row = answered(endpoint::find(&self.0.pool, endpoint)).await?.ok_or(LineError::Gone)?;
        let line = Arc::new(self.of(&row)?);
        // Read in the incarnation that it is kept for, or in a later one.
        self.known(incarnation, |lines| {
            if lines.len() >= LINES_MAX {
                lines.clear();
            }
            lines.insert(endpoint, line.clone());
        });
        Ok(line)
    }

    fn known<T>(
        &self,
        incarnation: i64,
        look: impl FnOnce(&mut HashMap<Uuid, Arc<Line>>) -> T,
    ) -> T {
        // A map of whole values: a panic elsewhere did not spoil it.
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 < incarnation {
            *known = (incarnation, HashMap::new());
        }
        match known.0 == incarnation {
            true => look(&mut known.1),
            // Whoever began before the restore keeps what it has learnt to itself.
            false => look(&mut HashMap::new()),
        }
    }

    fn of(&self, row: &Endpoint) -> Result<Line, LineError> {
        let guard = self.0.guard.of_tenant(&row.tenant);
        let url = guard.check_url(&row.url)?;
        let guard = guard.at(&url);
        let seal = &self.0.seal;
        let key = |stored: &str| -> Result<Key, LineError> {
            Ok(Key::parse(&seal.open(&endpoint::place(row.id, "secret"), stored)?)?)
        };
        let older: Result<Vec<_>, LineError> = row
            .secrets_before
            .iter()
            .zip(&row.secrets_before_until)
            .map(|(stored, until)| Ok((key(stored)?, *until)))
            .collect();
        let keys = Keys { newest: key(&row.secret)?, older: older? };
        let mut headers = match &row.headers {
            Some(stored) => {
                Headers::of_json(&seal.open(&endpoint::place(row.id, "headers"), stored)?)?.0
            }
            None => HeaderMap::new(),
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let client = match (&row.client_certificate, &row.client_key) {
            (Some(certificate), Some(stored)) => {
                let key = seal.open(&endpoint::place(row.id, "client_key"), stored)?;
                Certificate::read(certificate.clone(), key)?.client(&guard)?
            }
            // Nobody else may use its connections.
            _ if guard.is_narrowed() => client(&guard).build().map_err(LineError::Client)?,
            _ => self.0.client.clone(),
        };
        Ok(Line { version: row.version, url, keys, headers, client })
    }
}

/// What every client that calls endpoints has in common. A 2xx is a 2xx, however its headers
/// are written and whatever a gateway puts around them: the same page again helps nobody.
fn client(guard: &Guard) -> reqwest::ClientBuilder {
    guard
        .client()
        .timeout(Duration::from_millis(TIMEOUT_MS))
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_max_headers(ANSWER_HEADERS_MAX)
        .http2_max_header_list_size(ANSWER_HEAD_BYTES_MAX)
        .user_agent(concat!("vitals/", env!("CARGO_PKG_VERSION")))
}

/// Headers of an endpoint's own: an `Authorization` for its gateway, a route, a ward.
#[derive(Clone, Debug, Default)]
pub struct Headers(HeaderMap);

/// Why they cannot be headers.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum HeadersError {
    #[error("no object of texts: {0}")]
    Json(#[from] serde_json::Error),
    #[error("\"{0}\" is no name of a header")]
    Name(String),
    #[error("\"{0}\" is set by vitals or by HTTP itself, and cannot be another")]
    Reserved(String),
    #[error("the value of \"{0}\" holds what a header cannot (a line's end, or more than ASCII)")]
    Value(String),
    #[error("\"{0}\" is there twice")]
    Twice(String),
    #[error("{HEADERS_MAX} headers with {HEADERS_BYTES_MAX} bytes together at most")]
    TooMany,
}

impl HeadersError {
    /// The name that it is about.
    pub fn name(&self) -> Option<&str> {
        match self {
            HeadersError::Name(name)
            | HeadersError::Reserved(name)
            | HeadersError::Value(name)
            | HeadersError::Twice(name) => Some(name),
            HeadersError::Json(_) | HeadersError::TooMany => None,
        }
    }
}

impl Headers {
    /// Reads names and values.
    pub fn read<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Headers, HeadersError> {
        let (mut map, mut bytes) = (HeaderMap::new(), 0);
        for (name, value) in pairs {
            let no = || name.to_owned();
            bytes += name.len() + value.len();
            let known: HeaderName = name.parse().map_err(|_| HeadersError::Name(no()))?;
            let lower = known.as_str();
            if RESERVED.contains(&lower)
                || ["webhook-", "proxy-"].iter().any(|ours| lower.starts_with(ours))
            {
                return Err(HeadersError::Reserved(no()));
            }
            let mut value: HeaderValue = value.parse().map_err(|_| HeadersError::Value(no()))?;
            // So that no debug output of a client ever holds it.
            value.set_sensitive(true);
            if value.to_str().is_err() {
                return Err(HeadersError::Value(no()));
            }
            if map.insert(known, value).is_some() {
                return Err(HeadersError::Twice(no()));
            }
        }
        match map.len() > HEADERS_MAX || bytes > HEADERS_BYTES_MAX {
            true => Err(HeadersError::TooMany),
            false => Ok(Headers(map)),
        }
    }

    /// Reads what [`Headers::to_json`] wrote.
    pub fn of_json(json: &str) -> Result<Headers, HeadersError> {
        let pairs: HashMap<String, String> = serde_json::from_str(json)?;
        Headers::read(pairs.iter().map(|(name, value)| (&**name, &**value)))
    }

    /// All of them, to be kept sealed; `None` when there are none.
    pub fn to_json(&self) -> Option<String> {
        let pair = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.to_str().unwrap_or_default().into())
        };
        let pairs: serde_json::Map<_, serde_json::Value> = self.0.iter().map(pair).collect();
        (!pairs.is_empty()).then(|| serde_json::Value::from(pairs).to_string())
    }

    /// Their names, which are no secret.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().map(HeaderName::to_string).collect()
    }
}

/// A client certificate and its key, for endpoints that ask for one (mTLS).
#[derive(Clone)]
pub struct Certificate {
    /// PEM: the certificate and its chain.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate(hidden)")
    }
}

/// Why they are none.
#[derive(Debug, thiserror::Error)]
#[error("no PEM certificate with the PEM key that belongs to it ({0})")]
pub struct CertificateError(String);

impl Certificate {
    /// Reads both, and tries whether they belong together.
    pub fn read(certificate: String, key: String) -> Result<Certificate, CertificateError> {
        if certificate.len() > PEM_BYTES_MAX || key.len() > PEM_BYTES_MAX {
            return Err(CertificateError(format!("{PEM_BYTES_MAX} bytes each at most")));
        }
        let read = Certificate { certificate, key };
        read.client(&Guard::default()).map(|_| read)
    }

    fn client(&self, guard: &Guard) -> Result<reqwest::Client, CertificateError> {
        let no = |error: reqwest::Error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            CertificateError(format!("{error}{}", cause.unwrap_or_default()))
        };
        let pem = [&*self.certificate, "\n", &*self.key].concat();
        let identity = reqwest::Identity::from_pem(pem.as_bytes()).map_err(no)?;
        client(guard).identity(identity).build().map_err(no)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(name: &str, value: &str, expect: &str) {
        let error = Headers::read([(name, value)]).unwrap_err().to_string();
        assert!(error.contains(expect), "{name}: {error}");
    }

    #[test]
    fn no_header_takes_the_place_of_ours_or_of_http() {
        for name in ["Host", "webhook-id", "Webhook-Signature", "webhook-x", "Content-Type"] {
            refused(name, "x", "set by vitals");
        }
        for name in ["connection", "Transfer-Encoding", "Proxy-Authorization", "content-length"] {
            refused(name, "x", "set by vitals");
        }
        refused("a b", "x", "no name");
        refused("", "x", "no name");
        refused("x-ward", "a\r\nhost: evil", "line's end");
        refused("x-ward", "stationär", "ASCII");
        refused("x-ward", &"x".repeat(HEADERS_BYTES_MAX), "4096 bytes");
        let twice = Headers::read([("X-Ward", "a"), ("x-ward", "b")]);
        assert!(matches!(twice, Err(HeadersError::Twice(_))));
        let many: Vec<String> = (0..=HEADERS_MAX).map(|n| format!("x-{n}")).collect();
        let many = Headers::read(many.iter().map(|name| (&**name, "x")));
        assert!(matches!(many, Err(HeadersError::TooMany)));
    }

    #[test]
    fn headers_are_kept_as_they_were_sent() {
        let headers = Headers::read([("Authorization", "Bearer abc"), ("X-Ward", "4b")]).unwrap();
        let again = Headers::of_json(&headers.to_json().unwrap()).unwrap();
        assert_eq!(again.0, headers.0);
        assert_eq!(Headers::default().to_json(), None);
        let mut names = headers.names();
        names.sort();
        assert_eq!(names, ["authorization", "x-ward"]);
        assert!(!format!("{headers:?}").contains("abc"));
    }

    #[test]
    fn what_is_no_certificate_is_refused_without_being_repeated() {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let read = Certificate::read("nothing".to_owned(), "secret".to_owned());
        let error = read.unwrap_err().to_string();
        assert!(error.starts_with("no PEM certificate") && !error.contains("secret"), "{error}");
    }
}
