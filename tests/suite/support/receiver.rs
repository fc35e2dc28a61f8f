//! A hospital's receiver: verifies Standard Webhooks signatures by lines of its own,
//! and misbehaves when it is told to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use super::described::faults_of_webhook;

/// What the receiver answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This status.
    Status(u16),
    /// This status and `Retry-After`.
    RetryAfter(u16, u32),
    /// Nothing, for as long as the connection lives.
    Hang,
}

/// A delivery, as it came.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub id: String,
    /// Its number at this endpoint.
    pub sequence: i64,
    pub timestamp: i64,
    pub body: Value,
    /// To the letter, and every header.
    pub text: String,
    pub headers: HeaderMap,
    /// Signed with the secret that the receiver was told.
    pub verified: bool,
    pub at: Instant,
}

#[derive(Default)]
struct Book {
    key: Vec<u8>,
    answers: VecDeque<Answer>,
    always: Option<Answer>,
    deliveries: Vec<Delivery>,
    faults: Vec<String>,
}

/// A running receiver.
pub struct Receiver {
    /// Where to deliver to.
    pub url: String,
    book: Arc<Mutex<Book>>,
    server: tokio::task::JoinHandle<()>,
}

impl Receiver {
    /// Listens on a free port of this machine.
    pub async fn start() -> Receiver {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let book = Arc::new(Mutex::new(Book::default()));
        let router = Router::new().route("/hook", post(receive)).with_state(book.clone());
        let server =
            tokio::spawn(async move { axum::serve(listener, router).await.expect("serving") });
        Receiver { url, book, server }
    }

    /// The endpoint's `whsec_…`.
    pub fn set_secret(&self, secret: &str) {
        let encoded = secret.strip_prefix("whsec_").expect("a secret");
        self.book.lock().unwrap().key = STANDARD.decode(encoded).expect("base64");
    }

    /// What to answer next, one a delivery; 204 after that.
    pub fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.book.lock().unwrap().answers.extend(answers);
    }

    /// What to answer whenever nothing else was said.
    pub fn answer_always(&self, answer: Answer) {
        self.book.lock().unwrap().always = Some(answer);
    }

    /// Everything that came, in order; each body is as the API's description has it.
    pub fn deliveries(&self) -> Vec<Delivery> {
        let book = self.book.lock().unwrap();
        assert!(book.faults.is_empty(), "not as wire/webhook.rs says: {:#?}", book.faults);
        book.deliveries.clone()
    }
}

impl Delivery {
    /// Whether it is signed with this secret.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("a secret")).unwrap();
        let expected = signature(&key, &self.id, &self.timestamp.to_string(), self.text.as_bytes());
        self.headers["webhook-signature"].to_str().unwrap().split(' ').any(|s| s == expected)
    }
}

fn signature(key: &[u8], id: &str, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key does");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive(
    State(book): State<Arc<Mutex<Book>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let answer = {
        let mut book = book.lock().unwrap();
        let expected = signature(&book.key, id, timestamp, &body);
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        book.faults.extend(faults_of_webhook(&json));
        book.deliveries.push(Delivery {
            id: id.to_owned(),
            sequence: header("webhook-sequence").parse().unwrap_or_default(),
            timestamp: timestamp.parse().unwrap_or_default(),
            body: json,
            text: String::from_utf8_lossy(&body).into_owned(),
            headers: headers.clone(),
            verified: header("webhook-signature").split(' ').any(|s| s == expected),
            at: Instant::now(),
        });
        book.answers.pop_front().or_else(|| book.always.clone()).unwrap_or(Answer::Status(204))
    };
    let status = |code| StatusCode::from_u16(code).expect("a status");
    match answer {
        Answer::Status(code) => status(code).into_response(),
        Answer::RetryAfter(code, seconds) => {
            (status(code), [("retry-after", seconds.to_string())]).into_response()
        }
        Answer::Hang => std::future::pending().await,
    }
}
