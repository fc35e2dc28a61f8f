//! How long a page takes: `cargo bench --bench journey`.
//!
//! From the POST of a reading that raises an alert to the webhook at a receiver, with
//! other readings behind it, on the real binary and an embedded PostgreSQL with
//! durability on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a bench may fail loudly"
)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use support::{Client, Latencies, Readings, Server, read_message, reading, token};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const BACKGROUND_PER_SECOND: usize = 1_000;
const PAGES: u32 = 1_000;
/// Pages before those: connections are opened, plans are made.
const WARM_UP: u32 = 200;

#[tokio::main]
async fn main() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-journey");
    let server = Server::start(&dir, &[]).await;
    let token = token(&dir, "bench").await;
    let latencies = pages(&server.address, &token).await;
    println!("POST to webhook received, {BACKGROUND_PER_SECOND} readings/s behind");
    println!("p50 {:.2} ms, p99 {:.2} ms", latencies.ms(0.5), latencies.ms(0.99));
    server.stop().await;
}

async fn pages(address: &str, token: &str) -> Latencies {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut client = Client::connect(address, token).await;
    let wish = format!(r#"{{"url":"{url}","events":["*"]}}"#);
    assert_eq!(client.post("/api/v1/webhooks", &wish).await, 201);
    let mut other = Client::connect(address, token).await;
    let background = tokio::spawn(async move {
        let readings = Readings::default();
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        loop {
            tick.tick().await;
            let body = readings.body(BACKGROUND_PER_SECOND / 100, 80.0);
            assert_eq!(other.post("/api/v1/readings", &body).await, 201);
        }
    });
    let mut hook = None;
    let mut latencies = Vec::new();
    for n in 0..WARM_UP + PAGES {
        // Raised and cleared in turn, each one a webhook.
        let value = if n % 2 == 0 { 130.0 } else { 80.0 };
        let body = reading("page", value, 0);
        let sent = Instant::now();
        assert_eq!(client.post("/api/v1/readings", &body).await, 201);
        let stream = match hook.take() {
            Some(stream) => stream,
            None => BufReader::new(listener.accept().await.unwrap().0),
        };
        hook = Some(receive(stream).await);
        if n >= WARM_UP {
            latencies.push(sent.elapsed().as_secs_f64() * 1e3);
        }
    }
    background.abort();
    Latencies::new(latencies)
}

/// Takes one webhook and says thank you.
async fn receive(mut stream: BufReader<TcpStream>) -> BufReader<TcpStream> {
    read_message(&mut stream).await;
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    stream
}
