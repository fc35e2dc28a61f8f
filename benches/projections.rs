//! How fast the log is folded:
//! `cargo bench --bench projections -- [--json] [--readings 1000000] [--seconds 10] [--rate 20000]`.
//!
//! First each projection is rebuilt from a log of so many readings, beside the live one,
//! with comparison and swap; against psql, which runs the same `apply.sql` over each whole
//! shard, and for current values also the plainest statement that gives the same rows.
//! Then readings come at a rate, and each projection's lag is looked at. Prints a table and
//! writes `target/bench/projections.json`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a bench may fail loudly"
)]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use vitals::embedded::Embedded;
use vitals::event::{Event, READING};
use vitals::log::Log;
use vitals::projection::{self, Projection};
use vitals::vital::Vital;

use support::{Client, Latencies, Readings, Server, token};

const PATIENTS: i64 = 1_000;
const VITALS: [Vital; 4] =
    [Vital::HeartRate, Vital::RespiratoryRate, Vital::Spo2, Vital::BodyTemperature];
const EVENTS_PER_APPEND: i64 = 4_000;
const CONNECTIONS: usize = 8;
const BATCH: usize = 100;
const LOOK_MS: u64 = 100;

#[tokio::main]
async fn main() {
    let given: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: i64| {
        let at = given.iter().position(|a| a == name).and_then(|at| given.get(at + 1));
        at.map_or(default, |text| text.parse().unwrap())
    };
    let (readings, seconds, rate) =
        (value("--readings", 1_000_000), value("--seconds", 10), value("--rate", 20_000));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-projections");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    let folds = folds(&dir.join("folds"), readings).await;
    let lags = lags(&dir.join("lags"), seconds, rate).await;
    let report = json!({
        "readings": readings, "rebuilds": folds, "rate_per_s": rate, "lags": lags,
    });
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("bench");
    std::fs::create_dir_all(&out).unwrap();
    let text = serde_json::to_string_pretty(&report).unwrap();
    std::fs::write(out.join("projections.json"), &text).unwrap();
    if given.iter().any(|a| a == "--json") {
        println!("{text}");
    }
}

/// A ward's monitors: each patient's four vitals, ten seconds apart.
async fn fill(log: &Log, readings: i64) {
    let start: DateTime<Utc> = "2026-03-01T00:00:00Z".parse().unwrap();
    let mut shards: BTreeMap<i16, Vec<Event>> = BTreeMap::new();
    for n in 0..readings {
        let patient = n / VITALS.len() as i64 % PATIENTS;
        let turn = n / VITALS.len() as i64 / PATIENTS;
        let patient_id = format!("p{patient}");
        let shard = log.shard_of("bench", &patient_id);
        let event = Event {
            tenant: "bench".into(),
            patient_id,
            kind: READING.to_owned(),
            vital: Some(VITALS[(n % VITALS.len() as i64) as usize]),
            value: Some(60.0 + (n % 37) as f64),
            quality: None,
            suspect: false,
            occurred_at: start + TimeDelta::seconds(10 * turn),
            source_id: "monitor".to_owned(),
            data: None,
        };
        let waiting = shards.entry(shard).or_default();
        waiting.push(event);
        if waiting.len() as i64 == EVENTS_PER_APPEND {
            log.append(shard, &std::mem::take(waiting)).await.unwrap();
        }
    }
    for (shard, events) in shards {
        log.append(shard, &events).await.unwrap();
    }
}

async fn folds(dir: &Path, readings: i64) -> Value {
    let embedded = Embedded::start(dir).await.unwrap();
    let options = embedded.connect_options();
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(8).connect_lazy_with(options);
    let log = Log::open(pool.clone(), None).await.unwrap();
    projection::install(&log).await.unwrap();
    fill(&log, readings).await;
    sqlx::raw_sql("vacuum analyze").execute(&pool).await.unwrap();
    sqlx::raw_sql("checkpoint").execute(&pool).await.unwrap();
    let psql = Psql(embedded.connect_options().get_socket().unwrap().to_owned());
    println!("{readings} readings of {PATIENTS} patients in {} shards", log.shards().count());
    println!("{:<28} {:>11} {:>12} {:>7}", "", "events/s", "psql", "ratio");
    let row = |what: &str, per_second: f64, plain: f64| {
        println!("{what:<28} {per_second:>11.0} {plain:>12.0} {:>7.2}", per_second / plain);
    };
    let per_second = |took: Duration| readings as f64 / took.as_secs_f64();
    let mut found = serde_json::Map::new();
    let plainest = per_second(psql.plainest());
    for projection in &projection::ALL {
        let plain = per_second(psql.fold(projection, &log));
        // The first one also makes the live table; the second compares as well.
        let mut best: f64 = 0.0;
        for _ in 0..2 {
            let started = Instant::now();
            let rebuilt = projection::rebuild(&log, projection, |_, _| {}).await.unwrap();
            assert_eq!(rebuilt.differing, Some(0));
            best = best.max(per_second(started.elapsed()));
        }
        row(&format!("rebuild {}", projection.name), best, plain);
        found.insert(
            projection.name.to_owned(),
            json!({ "per_s": best, "psql_per_s": plain, "ratio": best / plain }),
        );
        if projection.name == "current_vitals" {
            row("  to the plainest statement", best, plainest);
            found.insert(
                "current_vitals_plainest".to_owned(),
                json!({ "psql_per_s": plainest, "ratio": best / plainest }),
            );
        }
    }
    pool.close().await;
    embedded.stop().await.unwrap();
    found.into()
}

/// Posts at a rate, and looks at the lag of each consumer meanwhile.
async fn lags(dir: &Path, seconds: i64, rate: i64) -> Value {
    let server = Arc::new(Server::start(dir, &[]).await);
    let readings = Arc::new(Readings::default());
    let until = Instant::now() + Duration::from_secs(seconds as u64);
    let pause = Duration::from_secs_f64((CONNECTIONS * BATCH) as f64 / rate as f64);
    let mut clients = Vec::new();
    for n in 0..CONNECTIONS {
        let token = token(dir, &format!("gateway-{n}")).await;
        let (server, readings) = (server.clone(), readings.clone());
        clients.push(tokio::spawn(async move {
            let mut client = Client::connect(&server.address, &token).await;
            let mut due = tokio::time::interval(pause);
            let mut sent = 0;
            while Instant::now() < until {
                due.tick().await;
                let body = readings.body(BATCH, 80.0);
                assert_eq!(client.post("/api/v1/readings", &body).await, 201);
                sent += BATCH;
            }
            sent
        }));
    }
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut seen: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        let url = format!("http://{}/health/ready", server.address);
        let ready: Value = client.get(url).send().await.unwrap().json().await.unwrap();
        for (consumer, lag) in ready["lag"].as_object().unwrap() {
            seen.entry(consumer.clone()).or_default().push(lag.as_f64().unwrap());
        }
    }
    let mut sent = 0;
    for client in clients {
        sent += client.await.unwrap();
    }
    let came = sent as f64 / seconds as f64;
    println!("{came:.0} readings/s for {seconds} s: lag in readings, and in ms at this rate");
    println!("{:<28} {:>8} {:>8} {:>8}", "", "p50", "p99", "p99 ms");
    let mut found = serde_json::Map::new();
    for (consumer, lags) in seen {
        let lags = Latencies::new(lags);
        let (p50, p99) = (lags.ms(0.5), lags.ms(0.99));
        let ms = p99 / came * 1e3;
        println!("{consumer:<28} {p50:>8.0} {p99:>8.0} {ms:>8.0}");
        found.insert(consumer, json!({ "p50": p50, "p99": p99, "p99_ms": ms }));
    }
    Arc::into_inner(server).unwrap().stop().await;
    json!({ "readings_per_s": came, "consumers": found })
}

/// PostgreSQL's own client.
struct Psql(PathBuf);

impl Psql {
    /// The projection's own fold over each whole shard, one after the other.
    fn fold(&self, projection: &Projection, log: &Log) -> Duration {
        let mut sql = format!(
            "set client_min_messages = warning; drop schema if exists plain cascade; \
             create schema plain; set search_path = plain, public;\n{};\n",
            projection.schema
        );
        sql.push_str(&format!(
            "prepare fold (smallint, bigint, bigint, timestamptz, timestamptz) as {};\n",
            projection.apply_sql()
        ));
        for shard in log.shards() {
            sql.push_str(&format!(
                "select format('execute fold (%s::smallint, 0, %s, %L, %L)', shard, max(position_to), \
                 min(occurred_min), max(occurred_max)) from log_commit where shard = {shard} group by shard \\gexec\n"
            ));
        }
        let started = Instant::now();
        self.run(&sql);
        let took = started.elapsed();
        self.run("set client_min_messages = warning; drop schema plain cascade; checkpoint;");
        took
    }

    /// What one would write who needs the newest values once.
    fn plainest(&self) -> Duration {
        let started = Instant::now();
        self.run(
            "create temp table newest as \
             select distinct on (shard, tenant, patient_id, vital) \
                    shard, tenant, patient_id, vital, value, occurred_at, position \
             from event where type = 'reading' \
             order by shard, tenant, patient_id, vital, occurred_at desc, position desc;",
        );
        started.elapsed()
    }

    fn run(&self, sql: &str) {
        let mut psql = Command::new("psql")
            .args(["-q", "-v", "ON_ERROR_STOP=1", "-U", "vitals", "-d", "vitals", "-h"])
            .arg(&self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("psql is installed");
        psql.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        assert!(psql.wait().unwrap().success(), "psql failed");
    }
}
