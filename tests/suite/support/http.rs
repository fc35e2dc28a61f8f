//! JSON over HTTP in one line. What our API answers is held against its description.

use std::sync::LazyLock;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use super::described::Exchange;
use super::server::client_builder;

/// Of all tests: making one costs more than most answers. It keeps no connection, because
/// each test has a runtime of its own.
static CLIENT: LazyLock<Client> =
    LazyLock::new(|| client_builder().pool_max_idle_per_host(0).build().expect("a client"));

/// An answer, taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// `Null` when the body is no JSON.
    pub json: Value,
    pub text: String,
}

/// GET with a token.
pub async fn get(url: &str, token: &str) -> Answer {
    send(Method::GET, url, token, None).await
}

/// POST of JSON with a token.
pub async fn post(url: &str, token: &str, body: &Value) -> Answer {
    send(Method::POST, url, token, Some(body.to_string().into_bytes())).await
}

/// Any request with a token; an empty token sends none.
pub async fn send(method: Method, url: &str, token: &str, body: Option<Vec<u8>>) -> Answer {
    let request = CLIENT.request(method.clone(), url);
    let request = if token.is_empty() { request } else { request.bearer_auth(token) };
    let request = match body.clone() {
        Some(body) => request.header("content-type", "application/json").body(body),
        None => request,
    };
    let answer = request.send().await.expect("an answer");
    let (status, headers) = (answer.status(), answer.headers().clone());
    let text = answer.text().await.expect("a whole answer");
    let json = serde_json::from_str(&text).unwrap_or_default();
    Exchange {
        method: method.as_str(),
        url,
        sent: body.as_deref(),
        status: status.as_u16(),
        content_type: headers.get("content-type").and_then(|kind| kind.to_str().ok()),
        text: &text,
    }
    .check();
    Answer { status, headers, json, text }
}
