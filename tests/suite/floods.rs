//! What is too much, and what is not there: the server says so and goes on.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::proxy::{Proxy, Way};
use crate::support::server::Server;

const GIGABYTE: u64 = 1 << 30;
/// A part of a body.
const PART: usize = 1 << 18;
const SOON: Duration = Duration::from_secs(30);
/// What a body that is too large may cost while it is read: the limit of 16 MB twice
/// over, as a buffer that grows needs, and some.
const MEMORY_KB_MAX: u64 = 64 * 1024;

/// A line of the process's status, in kB.
pub fn memory_kb(server: &Server, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(line)).expect("the line");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number")
}

/// How a body says how long it is.
#[derive(Clone, Copy, Debug)]
enum Length {
    Announced,
    Chunked,
}

/// Sends a gigabyte of a JSON array, or as much as the server wants; its answer.
async fn send_a_gigabyte(server: &Server, length: Length) -> (String, Value) {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let head = format!(
        "POST /api/v1/readings HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         authorization: Bearer {}\r\ncontent-type: application/json\r\n{}\r\n\r\n",
        server.token("readings:write"),
        match length {
            Length::Announced => format!("content-length: {GIGABYTE}"),
            Length::Chunked => "transfer-encoding: chunked".to_owned(),
        }
    );
    let sending = tokio::spawn(async move {
        let mut part = b"[".repeat(PART);
        if let Length::Chunked = length {
            part = [format!("{PART:x}\r\n").as_bytes(), &part, b"\r\n"].concat();
        }
        let mut sent = to.write_all(head.as_bytes()).await;
        for _ in 0..GIGABYTE / PART as u64 {
            if sent.is_err() {
                // It has answered and wants no more.
                break;
            }
            sent = to.write_all(&part).await;
        }
        if let (Length::Chunked, Ok(())) = (length, sent) {
            // The answer is what counts; it may have come by now.
            drop(to.write_all(b"0\r\n\r\n").await);
        }
        // Kept: who closes its side does not wait for an answer.
        to
    });
    let mut answer = Vec::new();
    // Read to the end or to where the connection breaks, with the answer before it.
    drop(tokio::time::timeout(SOON, from.read_to_end(&mut answer)).await.expect("an answer"));
    sending.abort();
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) =
        answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
    (head.to_lowercase(), serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_is_refused_and_nobody_else_notices() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    hospital.measure("101", 80.0).await;
    let before = memory_kb(&server, "VmRSS:");
    for length in [Length::Announced, Length::Chunked] {
        let neighbours = async {
            for i in 0..10 {
                hospital.measure("101", 81.0 + f64::from(i)).await;
            }
        };
        let ((head, problem), ()) = tokio::join!(send_a_gigabyte(&server, length), neighbours);
        assert!(head.starts_with("http/1.1 413 "), "{length:?}: {head}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        assert_eq!(problem["code"], "body_too_large", "{length:?}: {problem}");
    }
    let most = memory_kb(&server, "VmHWM:");
    assert!(most < before + MEMORY_KB_MAX, "from {before} kB to {most} kB");
    assert_eq!(hospital.found("/patients/101/heart-rate").await["heartRate"], 90);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_millions_of_items_costs_little_more_than_its_bytes() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    hospital.measure("101", 80.0).await;
    let before = memory_kb(&server, "VmRSS:");
    // Just below the limit, and nothing in it is a reading.
    let body = format!("[{}1]", "1,".repeat(8_000_000));
    let bodies_kb = 4 * body.len() as u64 / 1024;
    let sends = (0..4).map(|_| {
        let request = hospital.request(reqwest::Method::POST, "/readings").body(body.clone());
        tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
    });
    for send in sends.collect::<Vec<_>>() {
        // Too many, whatever they are.
        assert_eq!(send.await.unwrap(), 413);
    }
    let most = memory_kb(&server, "VmHWM:");
    assert!(most < before + 2 * bodies_kb, "from {before} kB to {most} kB");
    hospital.measure("101", 81.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_database_it_says_come_again_and_does_not_lie() {
    let database = Database::new().await;
    let gate = Proxy::before(&database).await;
    let dir = crate::support::scratch_dir();
    let server = Server::start_in(&dir, Some(&gate.url), &[]).await;
    let hospital = Hospital::new(&server, "hospital-1");
    hospital.measure("101", 80.0).await;
    gate.set(Way::Cut);

    let lost = heart_rate("101", 90.0, now());
    let store = hospital.request(reqwest::Method::POST, "/readings").json(&lost);
    let ask = hospital.request(reqwest::Method::GET, "/patients/101");
    let (stored, asked) = tokio::join!(store.send(), ask.send());
    for answer in [stored.unwrap(), asked.unwrap()] {
        assert_eq!(answer.status(), 503);
        assert!(answer.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 0);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    let status_of = async |path: &str| {
        server.client().get(server.url(path)).send().await.unwrap().status().as_u16()
    };
    assert_eq!((status_of("/health/live").await, status_of("/health/ready").await), (200, 503));

    gate.set(Way::Open);
    eventually("the server to be ready again", SOON, async || {
        (status_of("/health/ready").await == 200).then_some(())
    })
    .await;
    // It comes back by itself, and the repeat is kept, whether or not the first was. A
    // connection that was made while the line was cut may be found broken still.
    let kept = eventually("the repeat to be taken", SOON, || async {
        let (status, kept) = hospital.post("/readings", &lost).await;
        assert!([201, 503].contains(&status), "{kept}");
        (status == 201).then_some(kept)
    })
    .await;
    assert_eq!(kept["stored"].as_u64().unwrap() + kept["duplicates"].as_u64().unwrap(), 1);
    eventually("the question to be answered", SOON, || async {
        let (status, newest) = hospital.get("/patients/101/heart-rate").await;
        // Where the fold is not there yet, nothing is said of it.
        assert!([200, 404, 503].contains(&status), "{newest}");
        (newest["heartRate"] == 90).then_some(())
    })
    .await;
}
