//! What one subject may hold of a process: bodies, streams, replays, tables, answers. Others
//! find the rest.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::connections::metric;
use crate::floods::memory_kb;
use crate::hospital::{Hospital, heart_rate, now};
use crate::streams::Events;
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::upload::Upload;

const SOON: Duration = Duration::from_secs(60);
/// What the bodies of one subject may take: its part of the budget, once more while one
/// grows, decoders, and some.
const MEMORY_KB_MAX: u64 = 256 * 1024;

/// A token for a subject of a tenant, with a device or without.
fn token(server: &Server, tenant: &str, subject: &str, device: Option<&str>) -> String {
    server.token_with(|claims| {
        claims["tenant"] = tenant.into();
        claims["sub"] = subject.into();
        claims["scope"] = "readings:write vitals:read webhooks:manage rules:manage".into();
        if let Some(device) = device {
            claims["device"] = device.into();
        }
    })
}

/// A body that becomes almost 16 MiB, without its end.
pub fn bomb() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&b" ".repeat((16 << 20) - 1)).unwrap();
    encoder.flush().unwrap();
    encoder.get_ref().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_one_subject_holds_open_leave_memory_and_room_for_others() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    hospital.measure("101", 80.0).await;
    let before = memory_kb(&server, "VmRSS:");
    let villain = token(&server, "ward", "watch-7", Some("watch-7"));
    let bomb = bomb();
    let mut held = Vec::new();
    for _ in 0..60 {
        let headers = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
        let mut upload = Upload::begin_as(&server, &villain, headers).await;
        upload.send(&bomb).await;
        held.push(upload);
    }
    let refused = "vitals_refused_total{limit=\"body_bytes\",whose=\"subject\"}";
    eventually("some to be refused", SOON, async || {
        (metric(&server, refused).await > 40.0).then_some(())
    })
    .await;
    // A gateway of the same ward sends a whole batch meanwhile.
    let batch: Vec<Value> = (0..9_000)
        .map(|n| heart_rate("102", 80.0, now() - chrono::TimeDelta::seconds(n)))
        .collect();
    hospital.store(&batch).await;
    let most = memory_kb(&server, "VmHWM:");
    assert!(most < before + MEMORY_KB_MAX, "from {before} kB to {most} kB");
    let (status, problem) = held.pop().unwrap().answer().await;
    assert!([429, 408].contains(&status), "{problem}");
    if status == 429 {
        assert_eq!(problem["code"], "body_budget_used");
        assert_eq!(
            (&problem["limit"], &problem["whose"]),
            (&json!("body_bytes"), &json!("subject"))
        );
    }
}

#[tokio::test]
async fn only_readings_may_be_large() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let large = "x".repeat(70_000);
    for (method, path) in [
        (Method::POST, "/webhooks"),
        (Method::PUT, "/patients/101"),
        (Method::PUT, "/rules/r"),
        (Method::POST, "/rules/backtest"),
        (Method::POST, "/silences"),
        (Method::POST, "/patients/101/readings/retract"),
    ] {
        let request = hospital.request(method, path).json(&json!({ "description": large }));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 413, "{path}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "body_too_large", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("65536"), "{problem}");
    }
    let mut batch = json!(Vec::from_iter(
        (0..700).map(|n| { heart_rate("101", 80.0, now() - chrono::TimeDelta::seconds(n)) })
    ))
    .to_string();
    batch.push_str(&" ".repeat(100_000));
    let answer = hospital.request(Method::POST, "/readings").body(batch).send().await.unwrap();
    assert_eq!(answer.status(), 201);
}

/// Asks for `path` again and again and reads nothing; how many begin, and the first refusal.
async fn open(server: &Server, token: &str, path: &str) -> (Vec<TcpStream>, u16, Value) {
    let mut open = Vec::new();
    loop {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let request = format!(
            "GET /api/v1{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut part = [0; 512];
        let length = stream.read(&mut part).await.unwrap();
        let status = String::from_utf8_lossy(&part[..length])[9..12].parse().unwrap();
        if status != 200 {
            let mut rest = part[..length].to_vec();
            drop(stream.read_to_end(&mut rest).await);
            let text = String::from_utf8(rest).unwrap();
            let body = text.split_once("\r\n\r\n").unwrap().1;
            return (open, status, serde_json::from_str(body).unwrap());
        }
        open.push(stream);
        assert!(open.len() <= 1_000, "no end to {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_patients_token_cannot_take_the_streams_of_the_ward() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    hospital.measure("101", 80.0).await;
    let patient = token(&server, "ward", "patient-101", None);
    let (streams, status, problem) = open(&server, &patient, "/stream").await;
    assert_eq!((streams.len(), status, &problem["code"]), (250, 429, &json!("too_many_streams")));
    let path = "/patients/101/replay?speed=0.001";
    // The first event is sent at once, the next one after minutes.
    hospital.measure("101", 81.0).await;
    let (replays, status, problem) = open(&server, &patient, path).await;
    assert_eq!((replays.len(), status, &problem["code"]), (25, 429, &json!("too_many_streams")));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("25 of 25 open replays") && detail.contains("subject"), "{detail}");
    // The ward's page, and that of another tenant.
    for tenant in ["ward", "another"] {
        let screen = Hospital::new(&server, tenant);
        drop(Events::open(&screen, "/stream", None).await);
    }
    drop(Events::open(&hospital, path, None).await);
    let counted =
        metric(&server, "vitals_refused_total{limit=\"streams\",whose=\"subject\"}").await;
    assert_eq!(counted, 1.0);
    // Places come back with those who go.
    drop((streams, replays));
    eventually("a place for the patient", SOON, async || {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let request = format!(
            "GET /api/v1/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {patient}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut part = [0; 512];
        let length = stream.read(&mut part).await.unwrap();
        part[..length].starts_with(b"HTTP/1.1 200").then_some(())
    })
    .await;
}
