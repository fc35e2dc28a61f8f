//! What the benches share: the real binary on an embedded database with durability
//! on, and clients on plain HTTP/1.1 connections that are kept open.
//!
//! The load generator shares the machine with the server, so figures are compared
//! within one run and not between machines.

#![allow(dead_code, reason = "each bench uses its part")]

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const SECRET: &str = "a secret that is good for benches only";
/// Patients that take turns.
pub const PATIENTS: u64 = 500;

/// A running `vitals serve`.
pub struct Server {
    child: Child,
    /// Host and port.
    pub address: String,
}

impl Server {
    /// Starts it in an empty data directory.
    pub async fn start(dir: &Path, arguments: &[&str]) -> Server {
        if dir.exists() {
            std::fs::remove_dir_all(dir).unwrap();
        }
        let mut child = vitals(dir)
            .args(["serve", "--listen", "127.0.0.1:0", "--allow-webhook-net", "127.0.0.0/8"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.next_line().await.unwrap().expect("the server starts");
        Server { child, address: ready.strip_prefix("ready http://").unwrap().to_owned() }
    }

    /// Its resident memory now, in MB; PostgreSQL apart.
    pub fn resident_mb(&self) -> f64 {
        let status = format!("/proc/{}/status", self.child.id().unwrap());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// How long its threads were on a core so far, PostgreSQL apart.
    pub fn on_core(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.child.id().unwrap());
        let ns = std::fs::read_dir(tasks).unwrap().map(|task| {
            let told = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            told.split(' ').next().unwrap().parse::<u64>().unwrap()
        });
        Duration::from_nanos(ns.sum())
    }

    /// Ends it in order.
    pub async fn stop(mut self) {
        Command::new("kill").arg(self.child.id().unwrap().to_string()).status().await.unwrap();
        assert!(self.child.wait().await.unwrap().success());
    }
}

/// The binary on a data directory.
pub fn vitals(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitals"));
    command.env("VITALS_DATA_DIR", dir).env("VITALS_JWT_SECRET", SECRET).env("VITALS_LOG", "error");
    command.kill_on_drop(true);
    command
}

/// A token for everything, of a gateway named `subject`.
pub async fn token(dir: &Path, subject: &str) -> String {
    token_of(dir, "bench", subject).await
}

/// The same for another tenant.
pub async fn token_of(dir: &Path, tenant: &str, subject: &str) -> String {
    let scope = "readings:write vitals:read webhooks:manage";
    let output = vitals(dir)
        .args(["token", "--tenant", tenant, "--subject", subject, "--scope", scope])
        .output()
        .await
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Where readings come from; no two are the same reading.
pub struct Readings {
    next: AtomicU64,
    /// Each has a device of their own.
    patients: u64,
    /// How many of [`VITALS`] are measured.
    vitals: u64,
    /// Ids as hospitals have them, of 36 characters.
    uuids: bool,
}

/// Vitals, their units, and values that nobody is paged for.
const VITALS: [(&str, &str, &str); 12] = [
    ("heart_rate", "/min", "80"),
    ("respiratory_rate", "/min", "16"),
    ("spo2", "%", "97"),
    ("body_temperature", "Cel", "37.2"),
    ("systolic_bp", "mm[Hg]", "121"),
    ("diastolic_bp", "mm[Hg]", "79"),
    ("mean_bp", "mm[Hg]", "93"),
    ("blood_glucose", "mmol/L", "5.4"),
    ("body_weight", "kg", "71.5"),
    ("oxygen_flow", "L/min", "2"),
    ("consciousness", "{ACVPU}", "0"),
    ("heart_rate_variability", "ms", "43"),
];

impl Default for Readings {
    fn default() -> Readings {
        Readings::of(PATIENTS, 1, false)
    }
}

impl Readings {
    pub fn of(patients: u64, vitals: u64, uuids: bool) -> Readings {
        Readings { next: AtomicU64::new(0), patients, vitals, uuids }
    }

    /// The body of a request with so many readings.
    pub fn body(&self, count: usize, value: f64) -> String {
        let first = self.next.fetch_add(count as u64, Ordering::Relaxed);
        let readings: Vec<String> =
            (first..first + count as u64).map(|n| self.reading(n, value)).collect();
        match &*readings {
            [one] => one.clone(),
            many => format!("[{}]", many.join(",")),
        }
    }

    fn reading(&self, n: u64, value: f64) -> String {
        let (patient, round) = (n % self.patients, n / self.patients);
        let back_micros = 3_600_000_000 + round / self.vitals * 1_000;
        if !self.uuids {
            return reading(&format!("p{patient}"), value, back_micros);
        }
        let (vital, unit, value) = VITALS[(round % self.vitals) as usize];
        let (id, device) = (uuid_like(patient, 'a'), uuid_like(patient, 'd'));
        reading_of(&id, &device, (vital, unit, value), back_micros)
    }
}

/// 36 characters that differ from the first one on, as [`uuid_like_sql`] makes them.
fn uuid_like(n: u64, kind: char) -> String {
    format!("{:08x}-0000-4000-8000-{kind}{n:011x}", n.wrapping_mul(2_654_435_761) & 0xffff_ffff)
}

/// The same of `n`, and of a kind, in SQL.
pub fn uuid_like_sql(n: &str, kind: char) -> String {
    format!(
        "lpad(to_hex({n}::bigint * 2654435761 & 4294967295), 8, '0') || '-0000-4000-8000-{kind}' \
         || lpad(to_hex({n}), 11, '0')"
    )
}

/// A reading measured `back_micros` ago.
pub fn reading(patient: &str, value: f64, back_micros: u64) -> String {
    reading_of(patient, "bench", ("heart_rate", "/min", &value.to_string()), back_micros)
}

fn reading_of(
    patient: &str,
    device: &str,
    (vital, unit, value): (&str, &str, &str),
    back_micros: u64,
) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as i64;
    let at = chrono::DateTime::from_timestamp_micros(now - back_micros as i64).unwrap();
    format!(
        r#"{{"patientId":"{patient}","deviceId":"{device}","vital":"{vital}","value":{value},"unit":"{unit}","measuredAt":"{}"}}"#,
        at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
    )
}

/// What a load found.
pub struct Measured {
    /// Readings acknowledged in a second.
    pub per_second: f64,
    /// All of them.
    pub count: usize,
    latencies: Latencies,
}

impl std::ops::Deref for Measured {
    type Target = Latencies;

    fn deref(&self) -> &Latencies {
        &self.latencies
    }
}

/// How long each request took, sorted.
pub struct Latencies(Vec<f64>);

impl Latencies {
    /// Of milliseconds in any order.
    pub fn new(mut ms: Vec<f64>) -> Latencies {
        ms.sort_by(f64::total_cmp);
        Latencies(ms)
    }

    /// 0.5 for the median.
    pub fn ms(&self, part: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * part) as usize]
    }
}

/// Posts as fast as it is answered, one connection a token, for a while.
pub async fn load(
    server: &Server,
    readings: &Arc<Readings>,
    tokens: &[String],
    batch: usize,
    lasting: Duration,
) -> Measured {
    let started = Instant::now();
    let mut clients = Vec::new();
    for token in tokens {
        let mut client = Client::connect(&server.address, token).await;
        let readings = readings.clone();
        clients.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < lasting {
                let body = readings.body(batch, 80.0);
                let sent = Instant::now();
                assert_eq!(client.post("/api/v1/readings", &body).await, 201);
                latencies.push(sent.elapsed().as_secs_f64() * 1e3);
            }
            latencies
        }));
    }
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await.unwrap());
    }
    let count = latencies.len() * batch;
    let per_second = count as f64 / started.elapsed().as_secs_f64();
    Measured { per_second, count, latencies: Latencies::new(latencies) }
}

/// One keep-alive connection.
pub struct Client {
    stream: BufReader<TcpStream>,
    head: String,
}

impl Client {
    /// To a server, with a token.
    pub async fn connect(address: &str, token: &str) -> Client {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let head = format!("host: bench\r\nauthorization: Bearer {token}\r\n");
        Client { stream: BufReader::new(stream), head }
    }

    /// The status; the answer is read to its end.
    pub async fn get(&mut self, path: &str) -> u16 {
        let request = format!("GET {path} HTTP/1.1\r\n{}\r\n", self.head);
        self.stream.write_all(request.as_bytes()).await.unwrap();
        let start = read_message(&mut self.stream).await;
        start.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The status.
    pub async fn post(&mut self, path: &str, body: &str) -> u16 {
        self.ask("POST", path, body).await.0
    }

    /// The status and the body.
    pub async fn ask(&mut self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (head, length) = (&self.head, body.len());
        let json = "content-type: application/json";
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{head}{json}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
        let (start, body) = read_whole(&mut self.stream).await;
        (start.split(' ').nth(1).unwrap().parse().unwrap(), String::from_utf8(body).unwrap())
    }
}

/// Reads a message and throws its body away; returns its first line.
pub async fn read_message(stream: &mut BufReader<TcpStream>) -> String {
    read_whole(stream).await.0
}

/// Reads a message: its first line, and its body.
pub async fn read_whole(stream: &mut BufReader<TcpStream>) -> (String, Vec<u8>) {
    let (mut start, mut length) = (String::new(), 0);
    let mut line = String::new();
    loop {
        line.clear();
        assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "the connection ended");
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if start.is_empty() {
            start = line.to_owned();
        } else if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (start, body)
}

/// Keeps what a bench found in `target/bench/NAME.json`.
pub fn write_json(name: &str, found: &serde_json::Value) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../bench");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(format!("{name}.json")), format!("{found:#}\n")).unwrap();
}
