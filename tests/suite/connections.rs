//! Connections that ask for nothing: they end, they make room, and they keep no page from
//! going out.

use std::time::{Duration, Instant};

use rustix::process::Resource;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::hospital::Hospital;
use crate::support::postgres::Database;
use crate::support::receiver::Receiver;
use crate::support::server::{Server, client};
use crate::webhooks::received;

const SOON: Duration = Duration::from_secs(90);

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address()).await.unwrap()
}

/// What comes until the server closes the connection, and when that is.
async fn to_the_end(stream: &mut TcpStream) -> (String, Duration) {
    let (started, mut text) = (Instant::now(), Vec::new());
    // To the end, or to where it is reset.
    drop(timeout(SOON, stream.read_to_end(&mut text)).await.expect("it is not closed"));
    (String::from_utf8_lossy(&text).into_owned(), started.elapsed())
}

/// A metric with its labels; nothing counted is nothing.
pub async fn metric(server: &Server, name: &str) -> f64 {
    metric_by(server, &client(), name).await
}

/// The same by a client of the test's choice.
pub async fn metric_by(server: &Server, client: &reqwest::Client, name: &str) -> f64 {
    let text = client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_given_up() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let mut slow = connect(&server).await;
    slow.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    let mut silent = connect(&server).await;
    // One that has asked before may be silent for longer.
    let mut kept = connect(&server).await;
    let ask = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n";
    kept.write_all(ask).await.unwrap();
    let mut part = [0; 4096];
    assert!(kept.read(&mut part).await.unwrap() > 0);
    let ((_, slow), (_, silent)) = tokio::join!(to_the_end(&mut slow), to_the_end(&mut silent));
    assert!((8..30).contains(&slow.as_secs()), "{slow:?}");
    assert!((28..60).contains(&silent.as_secs()), "{silent:?}");
    kept.write_all(ask).await.unwrap();
    assert!(kept.read(&mut part).await.unwrap() > 0, "it was closed");
    let counted =
        metric(&server, "vitals_refused_total{limit=\"head_time\",whose=\"process\"}").await;
    assert!(counted >= 2.0, "{counted}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_told_so() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let mut stream = connect(&server).await;
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n", "x".repeat(200_000));
    // It may have answered before all was sent.
    drop(stream.write_all(head.as_bytes()).await);
    let (text, _) = to_the_end(&mut stream).await;
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431 "), "{text}");
}

#[tokio::test]
async fn http_2_is_not_spoken_without_tls() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let mut stream = connect(&server).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let (text, _) = to_the_end(&mut stream).await;
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text:?}");
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised_to_what_the_system_allows() {
    let database = Database::new().await;
    let server = Server::start_under(&database, "ulimit -Sn 200", &[]).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().filter(|w| w.parse::<u64>().is_ok()).collect();
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap();
    assert_eq!(numbers, [hard.to_string(), hard.to_string()], "{line}");
}

#[tokio::test]
async fn a_crowd_that_says_nothing_does_not_end_a_connection_with_a_good_token() {
    let database = Database::new().await;
    let server = Server::start_under(&database, "ulimit -n 512", &[]).await;
    let token = server.token("vitals:read");
    let mut kept = connect(&server).await;
    let request = format!(
        "GET /api/v1/patients HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    let mut crowd = Vec::new();
    for _ in 0..3 {
        kept.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        kept.read_exact(&mut answer).await.expect("it is open, although others came since");
        assert_eq!(&answer, b"HTTP/1.1 200");
        let mut rest = [0; 16 * 1024];
        while !rest.windows(2).any(|end| end == b"]}" || end == b"}}") {
            assert_ne!(kept.read(&mut rest).await.unwrap(), 0);
        }
        // More than there are places for.
        for _ in 0..600 {
            crowd.push(connect(&server).await);
        }
        // The last of them was taken.
        client().get(server.url("/health/live")).send().await.unwrap();
    }
}

#[tokio::test]
async fn connections_that_only_wait_make_room_and_pages_go_out() {
    const IDLE: usize = 700;
    let database = Database::new().await;
    let server = Server::start_under(&database, "ulimit -n 512", &[]).await;
    let hospital = Hospital::new(&server, "ward");
    let receiver = Receiver::start().await;
    let endpoint = hospital.endpoint(&receiver, &["*"]).await;
    let mut idle = Vec::new();
    for n in 0..IDLE {
        let mut stream = connect(&server).await;
        if n % 2 == 0 {
            // It may have been closed by now, for one that came later.
            drop(stream.write_all(b"GET /health/live HTTP/1.1\r\nx-slow: ").await);
        }
        idle.push(stream);
    }
    // Of 512 descriptors half are for connections, and a newcomer finds a place.
    for patient in ["101", "102", "103"] {
        let newcomer = client().get(server.url("/health/live")).send();
        assert_eq!(timeout(SOON, newcomer).await.expect("an answer").unwrap().status(), 200);
        hospital.measure(patient, 130.0).await;
    }
    assert!(metric(&server, "vitals_connections").await <= 256.0);
    let made_room = "vitals_refused_total{limit=\"idle_connections\",whose=\"process\"}";
    assert!(metric(&server, made_room).await >= (IDLE - 256) as f64);
    received(&receiver, 3).await;
    for delivery in hospital.deliveries(&endpoint).await {
        assert_eq!(delivery["attempts"], 1, "{delivery}");
    }
    assert!(server.logged().contains("fewer connections than --connections 4096"));
}
