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
use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use sqlx::PgPool;
use uuid::Uuid;

use super::builder::client_builder;
use super::certificate::{Certificate, CertificateError};
use super::guard::{ForbiddenUrl, Guard};
use super::headers::{Headers, HeadersError};
use super::key::{Key, KeyError, Keys};
use super::sign::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};
use crate::delivery::endpoint::{self, Endpoint};
use crate::delivery::seal::{Seal, UnsealError};
use crate::delivery::transport::{Destination, Message};
use crate::log::{Incarnations, Log, answered};
use crate::trace::TraceContext;

/// How many endpoints' clients a process keeps before it begins anew.
const CLIENTS_MAX: usize = 10_000;

/// The header with the delivery's number at its endpoint.
pub const SEQUENCE_HEADER: &str = "webhook-sequence";
/// The header with the incarnation of the log that the number was given in.
pub const INCARNATION_HEADER: &str = "webhook-incarnation";

/// W3C's headers of a trace.
const TRACEPARENT_HEADER: &str = "traceparent";
const TRACESTATE_HEADER: &str = "tracestate";

/// Why an endpoint cannot be called as it is stored.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It is gone.
    #[error("the endpoint was deleted")]
    Gone,
    /// PostgreSQL said no, or is gone.
    #[error("reading the endpoint: {0}")]
    Database(#[from] sqlx::Error),
    /// Inwards, or no URL at all.
    #[error("{0}")]
    Refused(#[from] ForbiddenUrl),
    /// The key for secrets is missing, or the row was changed.
    #[error("the endpoint's secrets cannot be opened: {0}")]
    Sealed(#[from] UnsealError),
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
pub struct EndpointClient {
    version: i32,
    url: reqwest::Url,
    keys: Keys,
    headers: Headers,
    client: reqwest::Client,
}

impl EndpointClient {
    /// One attempt's request. The body is signed as it is, and sent to the letter.
    pub fn request(&self, message: Message<'_>) -> reqwest::RequestBuilder {
        let Message { id, number, body, sent_at, trace } = message;
        let request = self
            .client
            .post(self.url.clone())
            .headers(in_trace(self.headers.to_map(), trace))
            .header(CONTENT_TYPE, "application/json")
            .header(ID_HEADER, id)
            .header(TIMESTAMP_HEADER, sent_at.timestamp())
            .header(SIGNATURE_HEADER, self.keys.sign(id, sent_at, body.as_bytes()));
        let request = match number {
            Some(number) => request
                .header(SEQUENCE_HEADER, number.sequence)
                .header(INCARNATION_HEADER, number.incarnation),
            None => request,
        };
        request.body(body.to_owned())
    }

    /// A text of the receiver's, without the secrets of the endpoint's own headers.
    pub(super) fn hidden_in(&self, text: String) -> String {
        self.headers.hidden_in(text)
    }
}

/// Headers of the endpoint's own, with those of a trace in their place.
fn in_trace(mut headers: HeaderMap, trace: Option<&TraceContext>) -> HeaderMap {
    let Some(trace) = trace else { return headers };
    let told =
        [(TRACEPARENT_HEADER, Some(trace.traceparent())), (TRACESTATE_HEADER, trace.tracestate())];
    for (name, value) in told {
        headers.remove(name);
        if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
            headers.insert(name, value);
        }
    }
    headers
}

/// The clients of a process's endpoints; cheap to clone.
#[derive(Clone, Debug)]
pub struct EndpointClients(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    history: Incarnations,
    guard: Guard,
    seal: Seal,
    /// For all endpoints without a certificate of their own.
    client: reqwest::Client,
    /// By incarnation: after a restore the same version may be of something else.
    known: Mutex<HashMap<(i64, Uuid), Arc<EndpointClient>>>,
}

impl EndpointClients {
    /// Clients for what `guard` permits, with the secrets that `seal` opens.
    pub fn new(log: &Log, guard: Guard, seal: Seal) -> Result<EndpointClients, reqwest::Error> {
        let client = client_builder(&guard).build()?;
        let (pool, history) = (log.pool().clone(), log.incarnations().clone());
        let known = Mutex::default();
        Ok(EndpointClients(Arc::new(Inner { pool, history, guard, seal, client, known })))
    }

    /// What secrets are sealed with.
    pub fn seal(&self) -> &Seal {
        &self.0.seal
    }

    /// What may be reached.
    pub fn guard(&self) -> &Guard {
        &self.0.guard
    }

    /// The client of an endpoint whose row had this version, or a newer one.
    pub async fn client(&self, of: Destination) -> Result<Arc<EndpointClient>, ClientError> {
        let key = (self.0.history.number(), of.endpoint_id);
        let known = self.0.known.lock().get(&key).cloned();
        if let Some(client) = known.filter(|known| known.version >= of.version) {
            return Ok(client);
        }
        let row = answered(endpoint::find(&self.0.pool, of.endpoint_id)).await?;
        let client = Arc::new(self.of(&row.ok_or(ClientError::Gone)?)?);
        // Read in the incarnation that it is kept for, or in a later one.
        let mut known = self.0.known.lock();
        if known.len() >= CLIENTS_MAX {
            known.clear();
        }
        known.insert(key, client.clone());
        Ok(client)
    }

    fn of(&self, row: &Endpoint) -> Result<EndpointClient, ClientError> {
        let guard = self.0.guard.of_tenant(&row.tenant);
        let url = guard.check_url(&row.url)?;
        let guard = guard.at(&url);
        let seal = &self.0.seal;
        let key = |stored: &str| -> Result<Key, ClientError> {
            Ok(Key::parse(&seal.open(&endpoint::place(row.id, "secret"), stored)?)?)
        };
        let older: Result<Vec<_>, ClientError> = row
            .secrets_before
            .iter()
            .zip(&row.secrets_before_until)
            .map(|(stored, until)| Ok((key(stored)?, *until)))
            .collect();
        let keys = Keys { newest: key(&row.secret)?, older: older? };
        let headers = match &row.headers {
            Some(stored) => {
                Headers::of_json(&seal.open(&endpoint::place(row.id, "headers"), stored)?)?
            }
            None => Headers::default(),
        };
        let client = match (&row.client_certificate, &row.client_key) {
            (Some(certificate), Some(stored)) => {
                let key = seal.open(&endpoint::place(row.id, "client_key"), stored)?;
                Certificate::read(certificate.clone(), key)?.client(&guard)?
            }
            // Its connections are not for other endpoints.
            _ if guard.is_narrowed() => {
                client_builder(&guard).build().map_err(ClientError::Client)?
            }
            _ => self.0.client.clone(),
        };
        Ok(EndpointClient { version: row.version, url, keys, headers, client })
    }
}
