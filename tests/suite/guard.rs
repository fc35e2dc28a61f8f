//! Webhooks that point inwards: refused when they are made, and again when sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::any;
use serde_json::{Value, json};

use crate::hospital::Hospital;
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::receiver::Receiver;
use crate::support::server::Server;

const SOON: Duration = Duration::from_secs(20);

/// All of them lead to this machine or into its network, most in disguise.
const INWARDS: [&str; 28] = [
    "http://168.63.129.16/metadata",
    "http://[::ffff:168.63.129.16]/",
    "http://127.0.0.1/",
    "http://127.0.0.1:8080/hook",
    "https://127.8.9.10/",
    "http://localhost/",
    "http://LOCALHOST:5432/",
    "http://0.0.0.0/",
    "http://0/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[fc00::1]/",
    "http://[fe80::1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
];

/// Not what one delivers to at all.
const UNFIT: [&str; 8] = [
    "",
    "not a url",
    "/hook",
    "ftp://hospital.example/hook",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "https://user:secret@hospital.example/hook",
    "https://hospital.example/hook#here",
];

fn check_refused(url: &str, (status, problem): (u16, Value)) {
    assert_eq!(status, 422, "{url}: {problem}");
    assert!(problem["code"].as_str().unwrap().starts_with("webhook_"), "{url}: {problem}");
    assert!(!problem["detail"].as_str().unwrap().is_empty(), "{url}: {problem}");
    assert!(problem.to_string().contains("/url"), "{url}: no pointer in {problem}");
}

#[tokio::test]
async fn a_url_that_leads_inwards_or_nowhere_is_refused_unless_its_network_is_allowed() {
    let database = Database::new().await;
    let server = Server::start_with(&database, &[]).await;
    let hospital = Hospital::new(&server, "ward");
    for url in INWARDS.into_iter().chain(UNFIT) {
        let body = json!({ "url": url, "events": ["*"] });
        check_refused(url, hospital.post("/webhooks", &body).await);
    }
    assert_eq!(hospital.found("/webhooks").await["items"], json!([]));

    // One that is allowed cannot be turned inwards either. A literal public address,
    // because a name would have to be resolved; nothing is ever sent to it.
    let body = json!({ "url": "https://198.41.0.4/hook", "events": ["*"] });
    let (status, endpoint) = hospital.post("/webhooks", &body).await;
    assert_eq!(status, 201, "{endpoint}");
    let path = format!("/webhooks/{}", endpoint["id"].as_str().unwrap());
    for url in INWARDS.into_iter().chain(UNFIT) {
        check_refused(url, hospital.patch(&path, &json!({ "url": url })).await);
    }
    assert_eq!(hospital.found(&path).await["url"], "https://198.41.0.4/hook");

    // What the operator names is open, and nothing beside it.
    let allowed = Server::start_with(&database, &["--allow-webhook-net", "127.0.0.2/32"]).await;
    let hospital = hospital.after_restart(&allowed);
    let body = json!({ "url": "http://127.0.0.2/", "events": ["*"] });
    assert_eq!(hospital.post("/webhooks", &body).await.0, 201);
    let body = json!({ "url": "http://127.0.0.1/", "events": ["*"] });
    check_refused("beside", hospital.post("/webhooks", &body).await);
    // What is open to one tenant at one port is to nobody else.
    let options = ["--allow-webhook-net", "ward=127.0.0.3/32:8443,other=10.0.0.0/8"];
    let allowed = Server::start_with(&database, &options).await;
    let (hospital, other) = (hospital.after_restart(&allowed), Hospital::new(&allowed, "other"));
    let at = |url: &str| json!({ "url": url, "events": ["*"] });
    assert_eq!(hospital.post("/webhooks", &at("http://127.0.0.3:8443/")).await.0, 201);
    assert_eq!(other.post("/webhooks", &at("http://10.0.0.1/")).await.0, 201);
    check_refused("port", hospital.post("/webhooks", &at("http://127.0.0.3/")).await);
    check_refused("tenant", hospital.post("/webhooks", &at("http://10.0.0.1/")).await);
    check_refused("tenant", other.post("/webhooks", &at("http://127.0.0.3:8443/")).await);
}

/// The first delivery of an endpoint, once it has been tried, with its attempts.
async fn tried(hospital: &Hospital, endpoint: &str) -> Value {
    eventually("an attempt to be recorded", SOON, || async {
        let id = hospital.deliveries(endpoint).await.first()?["id"].as_str()?.to_owned();
        let delivery = hospital.found(&format!("/deliveries/{id}")).await;
        (!delivery["log"].as_array()?.is_empty()).then_some(delivery)
    })
    .await
}

#[tokio::test]
async fn an_endpoint_whose_network_is_no_longer_allowed_is_not_connected_to() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let receiver = Receiver::start().await;
    let endpoint = hospital.endpoint(&receiver, &["*"]).await;
    server.kill().await;

    let strict = Server::start_with(&database, &[]).await;
    let hospital = hospital.after_restart(&strict);
    hospital.measure("101", 130.0).await;
    let delivery = tried(&hospital, &endpoint).await;
    let attempt = &delivery["log"][0];
    assert_eq!((&attempt["number"], &attempt["status"]), (&json!(1), &Value::Null), "{attempt}");
    assert!(attempt["error"].as_str().unwrap().contains("--allow-webhook-net"), "{attempt}");
    assert_eq!(delivery["state"], "pending");
    assert!(receiver.deliveries().is_empty());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let (lured, redirecting) = (Arc::new(AtomicUsize::new(0)), "/hook");
    let router = Router::new()
        .route(
            redirecting,
            any(|| async { (StatusCode::TEMPORARY_REDIRECT, [("location", "/inside")]) }),
        )
        .route(
            "/inside",
            any({
                let lured = lured.clone();
                move || async move {
                    lured.fetch_add(1, Ordering::Relaxed);
                }
            }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{redirecting}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let body = json!({ "url": url, "events": ["*"] });
    let (_, endpoint) = hospital.post("/webhooks", &body).await;
    hospital.measure("101", 130.0).await;
    let delivery = tried(&hospital, endpoint["id"].as_str().unwrap()).await;
    assert_eq!(delivery["log"][0]["status"], 307);
    assert_eq!((&delivery["state"], lured.load(Ordering::Relaxed)), (&json!("pending"), 0));
    serving.abort();
}

#[tokio::test]
async fn the_first_bytes_of_an_answer_or_the_reason_for_none_can_be_seen() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let long = format!("the page system is\0down {}", "x".repeat(5_000));
    let router = Router::new().route("/", any(move || async { (StatusCode::BAD_GATEWAY, long) }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let answering = format!("http://{}/", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    // A port that was free a moment ago.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = format!("http://{}/", closed.local_addr().unwrap());
    drop(closed);
    let mut endpoints = Vec::new();
    for url in [answering, refusing] {
        let (_, endpoint) =
            hospital.post("/webhooks", &json!({ "url": url, "events": ["*"] })).await;
        endpoints.push(endpoint["id"].as_str().unwrap().to_owned());
    }
    hospital.measure("101", 130.0).await;
    let answered = tried(&hospital, &endpoints[0]).await["log"][0].clone();
    assert_eq!((&answered["status"], &answered["error"]), (&json!(502), &Value::Null));
    let said = answered["answer"].as_str().unwrap();
    assert!(said.starts_with("the page system is") && said.len() < 2_000, "{said}");
    let refused = tried(&hospital, &endpoints[1]).await["log"][0].clone();
    assert_eq!(refused["status"], Value::Null);
    assert!(refused["error"].as_str().unwrap().contains("refused"), "{refused}");
    serving.abort();
}
