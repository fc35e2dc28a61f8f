//! A hospital that uses the program: one tenant, over HTTP.
//!
//! What the tests of webhooks, streams and crashes have in common. Everything goes
//! through the public interface; nothing here knows the program's types.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use vitals::clock::{Clock, rfc3339};

use crate::support::described::Exchange;
use crate::support::eventually;
use crate::support::receiver::Receiver;
use crate::support::server::Server;

const UP_TO_DATE: Duration = Duration::from_secs(60);
const EVERYTHING: &str = "readings:write readings:correct vitals:read alerts:read alerts:ack \
                          rules:manage webhooks:manage patients:manage tokens:revoke keys:manage \
                          audit:read";

/// A tenant with a token for everything.
#[derive(Clone)]
pub struct Hospital {
    pub tenant: String,
    base: String,
    token: String,
    client: reqwest::Client,
}

/// The time, as a device knows it.
pub fn now() -> DateTime<Utc> {
    Clock::system().now()
}

/// A heart rate as a device sends it.
pub fn heart_rate(patient: &str, value: f64, at: DateTime<Utc>) -> Value {
    json!({
        "patientId": patient, "deviceId": "watch-7", "vital": "heart_rate",
        "value": value, "unit": "/min", "measuredAt": rfc3339(at),
    })
}

/// Status and text of an answer, which has to be as the API is described.
async fn described(
    method: &str,
    path: &str,
    sent: Option<&Value>,
    answer: reqwest::Response,
) -> (u16, String) {
    let status = answer.status().as_u16();
    let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    let content_type = kind.map(str::to_owned);
    let text = answer.text().await.unwrap();
    let (url, sent) = (format!("/api/v1{path}"), sent.map(Value::to_string));
    let exchange = Exchange {
        method,
        url: &url,
        sent: sent.as_deref().map(str::as_bytes),
        status,
        content_type: content_type.as_deref(),
        text: &text,
    };
    exchange.check();
    (status, text)
}

impl Hospital {
    pub fn new(server: &Server, tenant: &str) -> Hospital {
        let token = server.token_with(|claims| {
            claims["tenant"] = tenant.into();
            claims["scope"] = EVERYTHING.into();
        });
        let (base, client) = (server.url("/api/v1"), server.client());
        Hospital { tenant: tenant.to_owned(), base, token, client }
    }

    /// The same hospital, after the server has moved to another port.
    pub fn after_restart(&self, server: &Server) -> Hospital {
        Hospital { base: server.url("/api/v1"), ..self.clone() }
    }

    /// The same hospital, with another token.
    pub fn with_token(&self, token: String) -> Hospital {
        Hospital { token, ..self.clone() }
    }

    /// A request under `/api/v1`, with the token.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let request = self.request(method.parse().unwrap(), path);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let (status, text) = described(method, path, body, request.send().await.unwrap()).await;
        let body = match text.is_empty() {
            true => Value::Null,
            false => serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}")),
        };
        (status, body)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call("POST", path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call("PUT", path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call("PATCH", path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        self.call("DELETE", path, None).await
    }

    /// What must be there, from an answer that does not call itself older than the log, as
    /// a server that is starved of its processor may do.
    pub async fn found(&self, path: &str) -> Value {
        eventually("an answer that is up to date", UP_TO_DATE, || async {
            let answer = self.request(Method::GET, path).send().await.unwrap();
            let behind = answer.headers().contains_key("vitals-behind");
            let (status, text) = described("GET", path, None, answer).await;
            assert_eq!(status, 200, "GET {path}: {text}");
            (!behind).then(|| serde_json::from_str(&text).unwrap())
        })
        .await
    }

    /// Sends readings that must all be new and fine.
    pub async fn store(&self, readings: &[Value]) {
        let (status, body) = self.post("/readings", &json!(readings)).await;
        assert_eq!((status, &body["stored"]), (201, &json!(readings.len())), "{body}");
    }

    /// One heart rate, measured now.
    pub async fn measure(&self, patient: &str, value: f64) -> DateTime<Utc> {
        let at = now();
        self.store(&[heart_rate(patient, value, at)]).await;
        at
    }

    /// One heart rate, measured some time ago.
    pub async fn measured_before(&self, patient: &str, value: f64, ago: TimeDelta) {
        self.store(&[heart_rate(patient, value, now() - ago)]).await;
    }

    /// Has `events` delivered to a receiver, which is told the secret; the endpoint's id.
    pub async fn endpoint(&self, receiver: &Receiver, events: &[&str]) -> String {
        let body = json!({ "url": receiver.url, "events": events });
        let (status, body) = self.post("/webhooks", &body).await;
        assert_eq!(status, 201, "{body}");
        receiver.set_secret(body["secret"].as_str().unwrap());
        body["id"].as_str().unwrap().to_owned()
    }

    /// The same with options of the endpoint.
    pub async fn endpoint_with(&self, receiver: &Receiver, options: Value) -> String {
        let mut body = json!({ "url": receiver.url, "events": ["*"] });
        for (key, value) in options.as_object().unwrap() {
            body[key] = value.clone();
        }
        let (status, body) = self.post("/webhooks", &body).await;
        assert_eq!(status, 201, "{body}");
        receiver.set_secret(body["secret"].as_str().unwrap());
        body["id"].as_str().unwrap().to_owned()
    }

    /// The deliveries of an endpoint, oldest first.
    pub async fn deliveries(&self, endpoint: &str) -> Vec<Value> {
        let body = self.found(&format!("/webhooks/{endpoint}/deliveries?limit=1000")).await;
        let mut items = body["items"].as_array().unwrap().clone();
        items.reverse();
        items
    }
}
