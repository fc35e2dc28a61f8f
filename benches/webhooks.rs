//! How fast pages go out, and whether others' bad receivers slow them down:
//! `cargo bench --bench webhooks`.
//!
//! The real binary on an embedded PostgreSQL with durability on, receivers and load
//! generator on the same machine. Prints a table and writes `target/bench/webhooks.json`.
//! `--seconds N` is how long each round of paging lasts, `--alerts N` how many alerts are
//! fanned out to ten endpoints.
//!
//! The rounds of paging take turns: alone, beside five other receivers that answer, and beside
//! five that hang, drip, fail, answer without end and reset, so that what a busy machine
//! does meets both alike, and the difference is the receivers' behaviour, not their number.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a bench may fail loudly"
)]

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::{Client, Latencies, Readings, Server, reading, token_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ALERTS_PER_SECOND: u64 = 200;
const BACKGROUND_PER_SECOND: usize = 1_000;
/// Patients whose alerts are raised and cleared in turn.
const PATIENTS: u64 = 100;
const ENDPOINTS: usize = 10;
/// Each round is run so often, beside good ones and beside bad ones.
const ROUNDS: usize = 3;
const BAD: [&str; 5] = ["hang", "drip", "fail", "endless", "reset"];
const GOOD: [&str; 5] = ["a", "b", "c", "d", "e"];

#[tokio::main]
async fn main() {
    let seconds = argument("--seconds").unwrap_or(6);
    let alerts = argument("--alerts").unwrap_or(4_000) as usize;
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-webhooks");
    let server = Server::start(&dir, &[]).await;
    let book = Arc::new(Book::default());
    let good = listen(book.clone()).await;

    let mut owner = Client::connect(&server.address, &token_of(&dir, "bench", "owner").await).await;
    register(&mut owner, &format!("{good}/page")).await;
    let background = background(&server, &token_of(&dir, "bench", "background").await).await;
    let mut pagers = Vec::new();
    for n in 0..4 {
        let token = token_of(&dir, "bench", &format!("pager-{n}")).await;
        pagers.push(Client::connect(&server.address, &token).await);
    }
    let (mut alone, mut among, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let of_alone = pages(&mut pagers, &book, seconds).await;
        let others = register_all(&mut owner, &good, GOOD).await;
        let of_round = pages(&mut pagers, &book, seconds).await;
        delete(&mut owner, others).await;
        let others = register_all(&mut owner, &good, BAD).await;
        let of_bad = pages(&mut pagers, &book, seconds).await;
        delete(&mut owner, others).await;
        // The first one warms up.
        if round > 0 {
            alone.extend(of_alone);
            among.extend(of_round);
            beside.extend(of_bad);
        }
    }
    background.store(true, Ordering::Relaxed);
    let [alone, among, beside] = [alone, among, beside].map(Latencies::new);
    let ratio = beside.ms(0.99) / among.ms(0.99);

    let per_second = fan_out(&server, &dir, &book, &good, alerts).await;
    println!("{ALERTS_PER_SECOND} alerts/s, {BACKGROUND_PER_SECOND} readings/s behind");
    println!("POST to webhook received                       p50 ms   p99 ms");
    for (name, of) in [
        ("  alone", &alone),
        ("  beside five good receivers", &among),
        ("  beside five bad receivers", &beside),
    ] {
        println!("{name:44} {:8.2} {:8.2}", of.ms(0.5), of.ms(0.99));
    }
    println!("{:44} {:17.2}", "  p99 beside bad ones to beside good ones", ratio);
    println!(
        "{alerts} alerts to {ENDPOINTS} endpoints, from the first POST: {per_second:.0} deliveries/s"
    );
    let json = serde_json::json!({
        "deliveries_per_s": per_second, "p50_ms": alone.ms(0.5), "p99_ms": alone.ms(0.99),
        "p50_with_answering_ms": among.ms(0.5), "p99_with_answering_ms": among.ms(0.99),
        "p50_with_hanging_ms": beside.ms(0.5), "p99_with_hanging_ms": beside.ms(0.99),
        "p99_ratio_with_hanging": ratio, "alerts_per_s": ALERTS_PER_SECOND,
        "readings_per_s": BACKGROUND_PER_SECOND, "endpoints": ENDPOINTS,
        "resident_mb": server.resident_mb(),
    });
    support::write_json("webhooks", &json);
    server.stop().await;
}

fn argument(name: &str) -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map(|value| value.parse().expect("a number"))
}

/// What was sent and has not been received, and how long the others took.
#[derive(Default)]
struct Book {
    sent: Mutex<HashMap<String, Instant>>,
    took_ms: Mutex<Vec<f64>>,
    /// `webhook-id` and path of what came to the ten endpoints.
    fanned: Mutex<std::collections::HashSet<String>>,
}

async fn register(owner: &mut Client, url: &str) -> String {
    let wish = format!(r#"{{"url":"{url}","events":["*"]}}"#);
    let (status, answer) = owner.ask("POST", "/api/v1/webhooks", &wish).await;
    assert_eq!(status, 201, "{answer}");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    answer["id"].as_str().unwrap().to_owned()
}

async fn register_all(owner: &mut Client, at: &str, names: [&str; 5]) -> Vec<String> {
    let mut endpoints = Vec::new();
    for name in names {
        endpoints.push(register(owner, &format!("{at}/{name}")).await);
    }
    endpoints
}

/// What waits for them ends with them, so that it weighs on no other round.
async fn delete(owner: &mut Client, endpoints: Vec<String>) {
    for endpoint in endpoints {
        let path = format!("/api/v1/webhooks/{endpoint}");
        assert_eq!(owner.ask("DELETE", &path, "").await.0, 204);
    }
}

/// Readings that concern nobody, until told to stop.
async fn background(server: &Server, token: &str) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let (mut client, stopped) = (Client::connect(&server.address, token).await, stop.clone());
    tokio::spawn(async move {
        let readings = Readings::default();
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while !stopped.load(Ordering::Relaxed) {
            tick.tick().await;
            let body = readings.body(BACKGROUND_PER_SECOND / 100, 80.0);
            assert_eq!(client.post("/api/v1/readings", &body).await, 201);
        }
    });
    stop
}

/// Raises and clears at a steady pace, whatever becomes of it; how long each page took.
async fn pages(pagers: &mut Vec<Client>, book: &Arc<Book>, seconds: u64) -> Vec<f64> {
    book.took_ms.lock().unwrap().clear();
    let started = Instant::now();
    let each = pagers.len() as u64;
    let mut tasks = Vec::new();
    for (n, mut pager) in pagers.drain(..).enumerate() {
        let book = book.clone();
        tasks.push(tokio::spawn(async move {
            let gap = Duration::from_secs_f64(each as f64 / ALERTS_PER_SECOND as f64);
            let mut tick = tokio::time::interval_at(
                tokio::time::Instant::now() + gap * n as u32 / each as u32,
                gap,
            );
            for count in 0_u64.. {
                tick.tick().await;
                if started.elapsed() >= Duration::from_secs(seconds) {
                    break;
                }
                // A patient is one pager's, so that its readings keep their order.
                let mine = PATIENTS / each;
                let patient = format!("page-{n}-{}", count % mine);
                let raises = (count / mine).is_multiple_of(2);
                let (value, state) = if raises { (130.0, "raised") } else { (80.0, "cleared") };
                let body = reading(&patient, value, 0);
                let key = format!("{patient}/{state}");
                book.sent.lock().unwrap().insert(key, Instant::now());
                assert_eq!(pager.post("/api/v1/readings", &body).await, 201);
            }
            // All cleared, so that the next round raises anew.
            for patient in 0..PATIENTS / each {
                let body = reading(&format!("page-{n}-{patient}"), 80.0, 0);
                assert_eq!(pager.post("/api/v1/readings", &body).await, 201);
            }
            pager
        }));
    }
    for task in tasks {
        pagers.push(task.await.unwrap());
    }
    let waited = Instant::now();
    while !book.sent.lock().unwrap().is_empty() {
        assert!(waited.elapsed() < Duration::from_secs(30), "pages were not received");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    std::mem::take(&mut book.took_ms.lock().unwrap())
}

/// Alerts of a tenant with ten endpoints, as fast as they are taken: deliveries a second.
async fn fan_out(server: &Server, dir: &Path, book: &Book, good: &str, alerts: usize) -> f64 {
    let mut owner = Client::connect(&server.address, &token_of(dir, "many", "owner").await).await;
    for n in 0..ENDPOINTS {
        register(&mut owner, &format!("{good}/many-{n}")).await;
    }
    let started = Instant::now();
    for batch in 0..alerts / 100 {
        let readings: Vec<String> =
            (0..100).map(|n| reading(&format!("many-{batch}-{n}"), 130.0, 0)).collect();
        let body = format!("[{}]", readings.join(","));
        assert_eq!(owner.post("/api/v1/readings", &body).await, 201);
    }
    let all = alerts / 100 * 100 * ENDPOINTS;
    while book.fanned.lock().unwrap().len() < all {
        assert!(started.elapsed() < Duration::from_secs(120), "not all came");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    all as f64 / started.elapsed().as_secs_f64()
}

async fn listen(book: Arc<Book>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            // A connection that breaks is the sender's to open again.
            tokio::spawn(serve(stream, book.clone()));
        }
    });
    url
}

/// One connection: reads a message, answers by its path.
async fn serve(mut stream: TcpStream, book: Arc<Book>) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
        let header = |name: &str| {
            let line = text.lines().find(|line| {
                line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
            });
            line.map_or("", |line| line[name.len()..].trim())
        };
        let length: usize = header("content-length:").parse().unwrap();
        while buffer.len() < head + length {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let path = text.split(' ').nth(1).unwrap_or_default();
        let answer = match path {
            "/page" => {
                received(&book, &buffer[head..head + length]);
                "HTTP/1.1 204 No Content\r\n\r\n"
            }
            "/fail" => "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
            "/hang" => std::future::pending().await,
            "/drip" => return drip(stream).await,
            "/endless" => return endless(stream).await,
            "/reset" => return stream.set_zero_linger(),
            many => {
                let id = format!("{many} {}", header("webhook-id:"));
                book.fanned.lock().unwrap().insert(id);
                "HTTP/1.1 204 No Content\r\n\r\n"
            }
        };
        stream.write_all(answer.as_bytes()).await?;
        buffer.drain(..head + length);
    }
}

fn received(book: &Book, body: &[u8]) {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    let key = format!("{}/{}", text("patientId"), text("state"));
    if let Some(sent) = book.sent.lock().unwrap().remove(&key) {
        book.took_ms.lock().unwrap().push(sent.elapsed().as_secs_f64() * 1e3);
    }
}

/// A byte a second.
async fn drip(mut stream: TcpStream) -> std::io::Result<()> {
    for byte in "HTTP/1.1 200 OK\r\n\r\n".bytes() {
        stream.write_all(&[byte]).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// 200 MB.
async fn endless(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 200000000\r\n\r\n").await?;
    let piece = vec![b'x'; 64 * 1024];
    for _ in 0..200_000_000 / piece.len() {
        stream.write_all(&piece).await?;
    }
    Ok(())
}
