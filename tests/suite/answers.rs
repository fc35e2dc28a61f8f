//! What receivers answer: a 2xx is a 2xx, whatever is written around it, and what a receiver
//! repeats of our secrets is shown to nobody.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

use crate::hospital::Hospital;
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::receiver::Receiver;
use crate::support::rogue::{Manner, Rogue};
use crate::support::server::Server;
use crate::webhooks::received;

const SOON: Duration = Duration::from_secs(30);

/// Heads of a success that gateways and old machines write, and breaks after one.
const TAKEN: [(&str, &str); 9] = [
    ("a folded header", "HTTP/1.1 200 OK\r\nx-route: ward\r\n  4b\r\ncontent-length: 2\r\n\r\nok"),
    (
        "a space before the colon",
        "HTTP/1.1 200 OK\r\nx-route : ward\r\ncontent-length: 2\r\n\r\nok",
    ),
    ("a header without a name", "HTTP/1.1 202 Accepted\r\n: ward\r\ncontent-length: 0\r\n\r\n"),
    ("a header that is none", "HTTP/1.1 200 OK\r\nward 4b\r\ncontent-length: 2\r\n\r\nok"),
    ("no reason", "HTTP/1.1 204\r\n\r\n"),
    ("lines without returns", "HTTP/1.1 200 OK\ncontent-length: 2\n\nok"),
    ("HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nok"),
    ("chunks that are none", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok"),
    ("half of a body", "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf"),
];

/// The only delivery of an endpoint, once it is finished.
async fn delivered(hospital: &Hospital, url: &str, patient: &str) -> Value {
    let (status, made) = hospital.post("/webhooks", &json!({ "url": url, "events": ["*"] })).await;
    assert_eq!(status, 201, "{made}");
    let endpoint = made["id"].as_str().unwrap().to_owned();
    hospital.measure(patient, 130.0).await;
    let delivery = eventually("the delivery to be taken, or tried again", SOON, || async {
        let id = hospital.deliveries(&endpoint).await.first()?["id"].as_str()?.to_owned();
        let delivery = hospital.found(&format!("/deliveries/{id}")).await;
        let tried = delivery["log"].as_array()?.len();
        (tried > 1 || (tried == 1 && delivery["state"] != "pending")).then_some(delivery)
    })
    .await;
    // The next one has nobody but its own.
    assert_eq!(hospital.delete(&format!("/webhooks/{endpoint}")).await.0, 204);
    delivery
}

#[tokio::test]
async fn a_success_is_a_success_however_its_head_is_written_or_its_body_ends() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let many: String = (0..400).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let many = format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n");
    let large = "x".repeat(100_000);
    let large = format!("HTTP/1.1 200 OK\r\nx-large: {large}\r\ncontent-length: 0\r\n\r\n");
    let (many, large): (&'static str, &'static str) = (many.leak(), large.leak());
    let all = TAKEN.into_iter().chain([("400 headers", many), ("a head of 100 kB", large)]);
    for (n, (what, answer)) in all.enumerate() {
        let rogue = Rogue::start(Manner::Says(answer)).await;
        let delivery = delivered(&hospital, &rogue.url, &format!("p{n}")).await;
        assert_eq!(
            (&delivery["state"], rogue.called()),
            (&json!("delivered"), 1),
            "{what}: {delivery}"
        );
        assert!(delivery["log"][0]["error"].is_null(), "{what}: {delivery}");
    }
}

#[tokio::test]
async fn what_a_receiver_repeats_of_a_secret_header_is_not_shown() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let answer =
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"authorization\":\"Bearer hunter2hunter2\"}";
    let rogue = Rogue::start(Manner::Says(answer)).await;
    let wish = json!({
        "url": rogue.url, "events": ["*"], "headers": { "Authorization": "Bearer hunter2hunter2" },
    });
    let (status, made) = hospital.post("/webhooks", &wish).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/webhooks/{}", made["id"].as_str().unwrap());
    let (_, pinged) = hospital.post(&format!("{path}/ping"), &json!({})).await;
    assert_eq!(pinged["delivered"], true, "{pinged}");
    assert!(pinged["answer"].as_str().unwrap().contains("authorization"), "{pinged}");
    assert!(!pinged.to_string().contains("hunter2"), "{pinged}");
}

/// A certificate's field is shown: a key in it was never meant to be.
#[tokio::test]
async fn a_private_key_is_taken_in_no_field_that_is_shown() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let block = |kind: &str| format!("-----BEGIN {kind}-----\nc2VjcmV0\n-----END {kind}-----\n");
    for kind in ["PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
        let wish = json!({
            "url": "https://198.41.0.4/hook", "events": ["*"],
            "clientCertificate": block("CERTIFICATE") + &block(kind), "clientKey": block(kind),
        });
        let (status, problem) = hospital.post("/webhooks", &wish).await;
        assert_eq!((status, &problem["pointer"]), (422, &json!("/clientCertificate")), "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(kind) && detail.contains("clientKey"), "{detail}");
        assert!(!problem.to_string().contains("c2VjcmV0"), "{problem}");
    }
    // One that is stored is not shown either.
    let wish = json!({ "url": "https://198.41.0.4/hook", "events": ["*"] });
    let (_, made) = hospital.post("/webhooks", &wish).await;
    sqlx::query("update endpoint set client_certificate = $1")
        .bind(block("RSA PRIVATE KEY") + &block("CERTIFICATE"))
        .execute(&database.pool())
        .await
        .unwrap();
    for path in ["/webhooks".to_owned(), format!("/webhooks/{}", made["id"].as_str().unwrap())] {
        let shown = hospital.found(&path).await.to_string();
        assert!(shown.contains("BEGIN CERTIFICATE") && !shown.contains("PRIVATE"), "{shown}");
    }
}

/// The lowest number that the server's next file would have.
fn next_descriptor(server: &Server) -> u64 {
    let open: std::collections::BTreeSet<u64> =
        std::fs::read_dir(format!("/proc/{}/fd", server.pid()))
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_string_lossy().parse().ok())
            .collect();
    (0..).find(|number| !open.contains(number)).unwrap()
}

#[tokio::test]
async fn who_lacks_descriptors_does_not_blame_the_receiver() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let receiver = Receiver::start().await;
    let endpoint = hospital.endpoint(&receiver, &["*"]).await;
    hospital.measure("before", 80.0).await;
    let pid = Pid::from_raw(server.pid() as i32);
    let limits = getrlimit(Resource::Nofile);
    let few = Rlimit { current: Some(next_descriptor(&server)), maximum: limits.maximum };
    prlimit(pid, Resource::Nofile, few).unwrap();
    hospital.measure("101", 130.0).await;
    eventually("the want to be noticed", SOON, || async {
        server.logged().contains("a delivery was not sent").then_some(())
    })
    .await;
    assert!(receiver.deliveries().is_empty());
    prlimit(pid, Resource::Nofile, limits).unwrap();
    received(&receiver, 1).await;
    let delivery = eventually("the delivery to be recorded", SOON, || async {
        let all = hospital.deliveries(&endpoint).await;
        let done = all.iter().find(|delivery| delivery["state"] == "delivered")?;
        Some(hospital.found(&format!("/deliveries/{}", done["id"].as_str()?)).await)
    })
    .await;
    let attempts = delivery["log"].as_array().unwrap();
    assert!(attempts.len() == 1 && attempts[0]["error"].is_null(), "{delivery}");
    let shown = hospital.found(&format!("/webhooks/{endpoint}")).await;
    assert_eq!(shown["breaker"], Value::Null, "{shown}");
}
