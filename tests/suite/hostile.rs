//! A ward among hostile clients: bodies that are held open, bombs, sockets that say nothing,
//! heads that drip, streams and answers that nobody reads, sweeps and rules without measure.
//!
//! The server has 4 GB of address space and 1,024 descriptors. The ward sends 100 readings a
//! second and raises an alert every second, first alone and then among the others.
//! `VITALS_HOSTILE_FOR` says for how long, as 1m; some seconds otherwise.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::connections::metric;
use crate::hospital::{Hospital, heart_rate, now};
use crate::shares::bomb;
use crate::support::eventually;
use crate::support::pass_time;
use crate::support::postgres::Database;
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::upload::Upload;

/// How long unless somebody says otherwise.
const FOR: Duration = Duration::from_secs(8);
const LIMITS: &str = "ulimit -v 4194304; ulimit -n 1024";
/// Beds that send, each a reading every 40 ms: 100 a second.
const BEDS: usize = 4;
const EVERY: Duration = Duration::from_millis(40);
/// Between two alerts.
const PAGES_EVERY: Duration = Duration::from_secs(1);
/// The most by which a page may be late; and beside all the other tests of a suite, or in a
/// debug build.
const LATE_MAX: Duration = Duration::from_secs(1);
const LATE_MAX_IN_A_SUITE: Duration = Duration::from_secs(15);
/// Readings and pages may take so many times as long as before …
const SLOWER_MAX: u32 = 3;
/// … and a reading's time of this is always fast enough: below it a busy machine is what is
/// measured.
const FAST: Duration = Duration::from_millis(40);
const FAST_IN_A_SUITE: Duration = Duration::from_secs(4);

/// Sends until told to stop; how long each took.
async fn bed(hospital: Hospital, name: String, stop: CancellationToken) -> Vec<Duration> {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut took = Vec::new();
    while !stop.is_cancelled() {
        tick.tick().await;
        let started = Instant::now();
        hospital.measure(&name, 80.0).await;
        took.push(started.elapsed());
    }
    took
}

/// Raises an alert now and then; each patient, and when the reading was handed in.
async fn alarms(
    hospital: Hospital,
    phase: &'static str,
    stop: CancellationToken,
) -> Vec<(String, Instant)> {
    let mut tick = tokio::time::interval(PAGES_EVERY);
    let mut raised = Vec::new();
    while !stop.is_cancelled() {
        tick.tick().await;
        let patient = format!("{phase}-{}", raised.len());
        let at = Instant::now();
        hospital.measure(&patient, 130.0).await;
        raised.push((patient, at));
    }
    raised
}

/// A ward for a while: the 99th percentile of its readings, and its alarms.
async fn ward(
    hospital: &Hospital,
    phase: &'static str,
    lasts: Duration,
) -> (Duration, Vec<(String, Instant)>) {
    let stop = CancellationToken::new();
    let mut beds = JoinSet::new();
    for n in 0..BEDS {
        beds.spawn(bed(hospital.clone(), format!("bed-{n}"), stop.clone()));
    }
    let alarms = tokio::spawn(alarms(hospital.clone(), phase, stop.clone()));
    pass_time(lasts).await;
    stop.cancel();
    let mut took: Vec<Duration> = beds.join_all().await.into_iter().flatten().collect();
    took.sort_unstable();
    println!(
        "{phase}: {} readings, p50 {:?} p99 {:?} most {:?}",
        took.len(),
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        took[took.len() - 1]
    );
    (took[took.len() * 99 / 100], alarms.await.unwrap())
}

/// Whoever does harm: a place to connect to, and tokens that are good.
struct Villain {
    address: String,
    server: Arc<Server>,
    hospital: Hospital,
    bomb: Vec<u8>,
}

impl Villain {
    fn token(&self, subject: &str) -> String {
        self.server.token_with(|claims| {
            claims["tenant"] = "villains".into();
            claims["sub"] = subject.into();
            claims["scope"] = "readings:write vitals:read rules:manage".into();
        })
    }

    async fn connect(&self) -> Option<TcpStream> {
        TcpStream::connect(&self.address).await.ok()
    }

    /// Sockets that say nothing, or a byte a second; those that were closed come anew.
    async fn waits(&self, sockets: usize, drips: bool) {
        let mut open = Vec::new();
        loop {
            while open.len() < sockets
                && let Some(mut stream) = self.connect().await
            {
                if drips {
                    drop(stream.write_all(b"GET / HTTP/1.1\r\nx-slow: ").await);
                }
                open.push(stream);
                tokio::task::yield_now().await;
            }
            pass_time(Duration::from_secs(1)).await;
            let mut part = [0; 512];
            open.retain_mut(|stream| {
                let closed = matches!(stream.try_read(&mut part), Ok(0));
                !closed && (!drips || stream.try_write(b"x").is_ok())
            });
        }
    }

    /// Bodies that become 16 MB and never end.
    async fn holds_bodies(&self, subject: &str) {
        let token = self.token(subject);
        loop {
            let mut held = Vec::new();
            for _ in 0..8 {
                let headers = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
                let mut upload = Upload::begin_as(&self.server, &token, headers).await;
                // It may have been answered by now.
                upload.try_send(&self.bomb).await;
                held.push(upload);
            }
            pass_time(Duration::from_secs(5)).await;
        }
    }

    /// Streams, replays and long answers that are asked for and not read.
    async fn does_not_read(&self, path: &'static str, subject: &str) {
        let token = self.token(subject);
        let mut open = Vec::new();
        loop {
            for _ in 0..4 {
                let Some(mut stream) = self.connect().await else { break };
                let request = format!(
                    "GET /api/v1{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
                );
                drop(stream.write_all(request.as_bytes()).await);
                open.push(stream);
            }
            if open.len() > 400 {
                open.clear();
            }
            pass_time(Duration::from_millis(500)).await;
        }
    }

    /// Requests whose numbers, multiplied, have no end, and rules as large as they can be.
    async fn asks_too_much(&self) {
        let rule = json!({ "event": "X", "when": { "vital": "heart_rate", "above": 120 } });
        let axes: Vec<String> = (0..64).map(|n| format!("key-{n}=1..2 step 1")).collect();
        let sweep = json!({ "rule": rule, "sweep": axes }).to_string();
        let described = |bytes: usize| {
            let mut rule = rule.clone();
            rule["description"] = "x".repeat(bytes).into();
            rule.to_string()
        };
        let (huge, large) = (described(15_000_000), described(60_000));
        loop {
            for (method, path, body) in [
                (Method::POST, "/rules/backtest", &sweep),
                (Method::PUT, "/rules/x", &huge),
                (Method::PUT, "/rules/x", &large),
            ] {
                let request = self.hospital.request(method, path);
                let request = request.header("content-type", "application/json");
                if let Ok(answer) = request.body(body.clone()).send().await {
                    assert!(answer.status().is_client_error() || answer.status().as_u16() == 503);
                }
            }
            pass_time(Duration::from_secs(1)).await;
        }
    }
}

/// All at once, until told to stop; on a thread of their own, so that they keep the ward from
/// nothing but the server.
fn let_loose(villain: Villain, stop: CancellationToken) -> std::thread::JoinHandle<()> {
    let harm = async move {
        tokio::join!(
            villain.waits(1_100, false),
            villain.waits(200, true),
            villain.holds_bodies("gateway"),
            villain.does_not_read("/stream", "screen"),
            villain.does_not_read("/patients/bed-0/replay?speed=0.001", "reviewer"),
            villain.does_not_read("/patients/bed-0/readings?limit=500", "reader"),
            villain.asks_too_much(),
        );
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = harm => {}
            }
        });
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ward_among_hostile_clients_is_paged_in_time() {
    let given = std::env::var("VITALS_HOSTILE_FOR").ok();
    // The bounds are of a release build that has the machine to itself.
    let is_strict = given.is_some() && !cfg!(debug_assertions);
    let (late_max, fast) = match is_strict {
        true => (LATE_MAX, FAST),
        false => (LATE_MAX_IN_A_SUITE, FAST_IN_A_SUITE),
    };
    let lasts = given.map_or(FOR, |text| humantime::parse_duration(&text).expect("a time"));
    let database = Database::new().await;
    let server = Arc::new(Server::start_under(&database, LIMITS, &[]).await);
    let hospital = Hospital::new(&server, "ward");
    let receiver = Receiver::start().await;
    let endpoint = hospital.endpoint(&receiver, &["*"]).await;
    let villains = Hospital::new(&server, "villains");
    // Something to ask for at length.
    let history: Vec<_> = (0..5_000)
        .map(|n| heart_rate("bed-0", 80.0, now() - chrono::TimeDelta::seconds(60 + n)))
        .collect();
    villains.store(&history).await;
    let (before, mut raised) = ward(&hospital, "alone", lasts.min(Duration::from_secs(20))).await;
    let villain = Villain {
        address: server.address().to_owned(),
        server: server.clone(),
        hospital: villains,
        bomb: bomb(),
    };
    let enough = CancellationToken::new();
    let all = let_loose(villain, enough.clone());
    let (among, more) = ward(&hospital, "among", lasts).await;
    raised.extend(more);

    // A newcomer is let in, and all pages came in time.
    let newcomer = Hospital::new(&server, "ward");
    newcomer.measure("newcomer", 80.0).await;
    eventually("all pages", Duration::from_secs(30), async || {
        let pages = receiver.deliveries();
        raised
            .iter()
            .all(|(patient, _)| pages.iter().any(|p| p.body["patientId"] == **patient))
            .then_some(())
    })
    .await;
    enough.cancel();
    all.join().expect("they end");
    let pages = receiver.deliveries();
    let latest = |phase: &str| {
        let of_phase = raised.iter().filter(|(patient, _)| patient.starts_with(phase));
        let late = of_phase.map(|(patient, at)| {
            let page = pages.iter().find(|page| page.body["patientId"] == **patient).unwrap();
            page.at.saturating_duration_since(*at)
        });
        late.max().unwrap()
    };
    let (latest_before, latest) = (latest("alone"), latest("among"));
    let refused = async |limit: &str, whose: &str| {
        metric(&server, &format!("vitals_refused_total{{limit=\"{limit}\",whose=\"{whose}\"}}"))
            .await
    };
    println!(
        "{} pages, the latest {latest_before:?} alone and {latest:?} among them; refused: idle {} connections {} bodies {} streams {}",
        raised.len(),
        refused("idle_connections", "process").await,
        refused("connections", "process").await,
        refused("body_bytes", "subject").await,
        refused("streams", "subject").await,
    );
    let late_max = late_max.max(latest_before * SLOWER_MAX);
    assert!(latest <= late_max, "a page came after {latest:?}, and alone after {latest_before:?}");
    assert!(among <= before.max(fast) * SLOWER_MAX, "p99 {before:?} alone, {among:?} among them");
    for delivery in hospital.deliveries(&endpoint).await {
        assert_eq!((&delivery["state"], &delivery["attempts"]), (&json!("delivered"), &json!(1)));
    }
    assert!(!server.logged().contains("Too many open files"), "descriptors ran out");
}
