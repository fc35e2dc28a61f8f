//! How fast one reading, and many, get through: `cargo bench --bench journey`.
//!
//! Starts the real binary on an embedded PostgreSQL with durability on, and loads
//! it from this process over plain HTTP/1.1 connections. Prints a table. The load
//! generator shares the machine with the server, so compare ratios within one run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a bench may fail loudly"
)]

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

const SECRET: &str = "a secret that is good for benches only";
const RUN: Duration = Duration::from_secs(10);
const PATIENTS: u64 = 500;
const BACKGROUND_PER_SECOND: u32 = 1_000;
const PAGES: u32 = 300;

#[tokio::main]
async fn main() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-journey");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    let (mut server, address) = serve(&dir).await;
    let token = token(&dir).await;
    let load = Arc::new(Load { address, token, next: AtomicU64::new(0) });

    println!("{:<44} {:>12} {:>9} {:>9}", "", "readings/s", "p50 ms", "p99 ms");
    for (connections, batch) in [(1, 1), (256, 1), (8, 100), (8, 1_000)] {
        let what = format!("{connections} connections, {batch} a request");
        let (rate, latencies) = load.run(connections, batch).await;
        report(&what, Some(rate), &latencies);
    }
    let latencies = load.pages().await;
    let what = format!("POST to webhook, {BACKGROUND_PER_SECOND} readings/s behind");
    report(&what, None, &latencies);

    Command::new("kill").arg(server.id().unwrap().to_string()).status().await.unwrap();
    assert!(server.wait().await.unwrap().success());
}

fn report(what: &str, rate: Option<f64>, sorted: &[f64]) {
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part) as usize];
    let rate = rate.map_or("–".to_owned(), |rate| format!("{rate:.0}"));
    println!("{what:<44} {rate:>12} {:>9.2} {:>9.2}", at(0.5), at(0.99));
}

async fn serve(dir: &Path) -> (Child, String) {
    let mut server = vitals(dir)
        .args(["serve", "--listen", "127.0.0.1:0", "--allow-webhook-net", "127.0.0.0/8"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let ready = lines.next_line().await.unwrap().expect("the server starts");
    (server, ready.strip_prefix("ready http://").unwrap().to_owned())
}

async fn token(dir: &Path) -> String {
    let scope = "readings:write vitals:read webhooks:manage";
    let output = vitals(dir)
        .args(["token", "--tenant", "bench", "--subject", "bench", "--scope", scope])
        .output()
        .await
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn vitals(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitals"));
    command.env("VITALS_DATA_DIR", dir).env("VITALS_JWT_SECRET", SECRET).env("VITALS_LOG", "warn");
    command.kill_on_drop(true);
    command
}

struct Load {
    address: String,
    token: String,
    /// Makes every reading a new one.
    next: AtomicU64,
}

impl Load {
    /// As fast as `connections` go for a while: readings a second, and how long each
    /// request took, sorted.
    async fn run(self: &Arc<Self>, connections: usize, batch: usize) -> (f64, Vec<f64>) {
        let started = Instant::now();
        let clients: Vec<_> = (0..connections)
            .map(|_| {
                let load = self.clone();
                tokio::spawn(async move {
                    let mut client = Client::connect(&load).await;
                    let mut latencies = Vec::new();
                    while started.elapsed() < RUN {
                        let body = load.readings(batch, 80.0);
                        let sent = Instant::now();
                        assert_eq!(client.post("/api/v1/readings", &body).await, 201);
                        latencies.push(sent.elapsed().as_secs_f64() * 1e3);
                    }
                    latencies
                })
            })
            .collect();
        let mut latencies = Vec::new();
        for client in clients {
            latencies.extend(client.await.unwrap());
        }
        let rate = (latencies.len() * batch) as f64 / started.elapsed().as_secs_f64();
        latencies.sort_by(f64::total_cmp);
        (rate, latencies)
    }

    fn readings(&self, count: usize, value: f64) -> String {
        let first = self.next.fetch_add(count as u64, Ordering::Relaxed);
        let readings: Vec<String> = (first..first + count as u64)
            .map(|n| {
                reading(&format!("p{}", n % PATIENTS), value, 3_600_000_000 + n / PATIENTS * 1_000)
            })
            .collect();
        match &*readings {
            [one] => one.clone(),
            many => format!("[{}]", many.join(",")),
        }
    }

    /// From the POST of a reading that raises an alert to the webhook at a receiver,
    /// with other readings behind it.
    async fn pages(self: &Arc<Self>) -> Vec<f64> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let mut client = Client::connect(self).await;
        let wish = format!(r#"{{"url":"{url}","events":["*"]}}"#);
        assert_eq!(client.post("/api/v1/webhooks", &wish).await, 201);
        let background = tokio::spawn({
            let load = self.clone();
            async move {
                let mut client = Client::connect(&load).await;
                let mut tick = tokio::time::interval(Duration::from_millis(10));
                loop {
                    tick.tick().await;
                    let body = load.readings(BACKGROUND_PER_SECOND as usize / 100, 80.0);
                    assert_eq!(client.post("/api/v1/readings", &body).await, 201);
                }
            }
        });
        let mut hook = None;
        let mut latencies = Vec::new();
        for n in 0..PAGES {
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
            latencies.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        background.abort();
        latencies.sort_by(f64::total_cmp);
        latencies
    }
}

/// A reading measured `back_micros` ago.
fn reading(patient: &str, value: f64, back_micros: u64) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as i64;
    let at = chrono::DateTime::from_timestamp_micros(now - back_micros as i64).unwrap();
    format!(
        r#"{{"patientId":"{patient}","deviceId":"bench","vital":"heart_rate","value":{value},"unit":"/min","measuredAt":"{}"}}"#,
        at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
    )
}

/// One keep-alive connection.
struct Client {
    stream: BufReader<TcpStream>,
    head: String,
}

impl Client {
    async fn connect(load: &Load) -> Client {
        let stream = TcpStream::connect(&load.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let head = format!("host: bench\r\nauthorization: Bearer {}\r\n", load.token);
        Client { stream: BufReader::new(stream), head }
    }

    async fn post(&mut self, path: &str, body: &str) -> u16 {
        let head = &self.head;
        let request =
            format!("POST {path} HTTP/1.1\r\n{head}content-length: {}\r\n\r\n{body}", body.len());
        self.stream.write_all(request.as_bytes()).await.unwrap();
        let start = read_message(&mut self.stream).await;
        start.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

/// Reads a message and throws its body away; returns its first line.
async fn read_message(stream: &mut BufReader<TcpStream>) -> String {
    let (mut start, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "the connection ended");
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if start.is_empty() {
            start = line.to_owned();
        } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    start
}

/// Takes one webhook and says thank you.
async fn receive(mut stream: BufReader<TcpStream>) -> BufReader<TcpStream> {
    read_message(&mut stream).await;
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    stream
}
