//! `kill -9` in the middle of everything: what was acknowledged is there, once.
//!
//! Clients keep their own books of what was acknowledged. What was under way when
//! the program died is sent again, as a device would, and must not be stored twice.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::JoinSet;
use vitals::clock::rfc3339;
use vitals::embedded::Embedded;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::server::{Server, command, scratch_dir};

const SOON: Duration = Duration::from_secs(60);
const CLIENTS: usize = 5;
const PATIENTS: usize = 7;

/// Patient, moment and value.
type Sent = (String, DateTime<Utc>, f64);

/// Patient, device and moment: what makes a reading itself.
type Key = (String, String, DateTime<Utc>);

fn body(client: usize, readings: &[Sent]) -> Value {
    let reading = |(patient, at, value): &Sent| {
        let mut reading = heart_rate(patient, *value, *at);
        reading["deviceId"] = format!("d{client}").into();
        reading
    };
    readings.iter().map(reading).collect()
}

/// One client's book.
#[derive(Default)]
struct Book {
    acknowledged: Vec<Sent>,
    /// What was under way when the connection broke.
    unanswered: Option<Vec<Sent>>,
    requests: usize,
}

impl Book {
    /// The next request: a single reading or a batch, each a moment of its own.
    fn next(&mut self, client: usize) -> Vec<Sent> {
        if let Some(again) = self.unanswered.take() {
            return again;
        }
        self.requests += 1;
        let size = if self.requests.is_multiple_of(3) { 1 + self.requests % 60 } else { 1 };
        let (start, n) = (now(), self.requests);
        let reading = |i: usize| {
            let patient = format!("p{}", (client + n + i) % PATIENTS);
            let at = start - TimeDelta::microseconds(((client * 100) + i) as i64);
            (patient, at, 60.0 + (n % 50) as f64)
        };
        (0..size).map(reading).collect()
    }

    /// Sends until the program is gone.
    async fn keep(mut self, hospital: Hospital, client: usize, count: Arc<AtomicUsize>) -> Book {
        loop {
            let readings = self.next(client);
            let request =
                hospital.request(Method::POST, "/readings").json(&body(client, &readings));
            let status = match request.send().await {
                Ok(answer) => answer.status().as_u16(),
                Err(_) => 0,
            };
            match status {
                201 => {
                    count.fetch_add(readings.len(), Ordering::Relaxed);
                    self.acknowledged.extend(readings);
                }
                // Dying, or the database under it: nothing is known.
                0 | 503 => {
                    self.unanswered = Some(readings);
                    return self;
                }
                other => panic!("answered {other}"),
            }
        }
    }
}

/// Clients that send at once until they are cut off.
struct Clients {
    books: Vec<Book>,
}

impl Clients {
    fn new() -> Clients {
        Clients { books: (0..CLIENTS).map(|_| Book::default()).collect() }
    }

    /// Sends, and kills when so many readings were acknowledged.
    async fn until(&mut self, hospital: &Hospital, acknowledged: usize, kill: impl AsyncFnOnce()) {
        let count = Arc::new(AtomicUsize::new(0));
        let mut sending = JoinSet::new();
        for (client, book) in self.books.drain(..).enumerate() {
            let (hospital, count) = (hospital.clone(), count.clone());
            sending.spawn(async move { (client, book.keep(hospital, client, count).await) });
        }
        eventually("readings to be acknowledged", SOON, || async {
            (count.load(Ordering::Relaxed) >= acknowledged).then_some(())
        })
        .await;
        kill().await;
        let mut books = BTreeMap::new();
        while let Some(done) = sending.join_next().await {
            let (client, book) = done.unwrap();
            books.insert(client, book);
        }
        self.books = books.into_values().collect();
    }

    fn acknowledged(&self) -> HashMap<Key, f64> {
        let of = |(client, book): (usize, &Book)| {
            let device = format!("d{client}");
            let readings = book.acknowledged.clone().into_iter();
            readings.map(move |(p, at, value)| ((p, device.clone(), at), value)).collect::<Vec<_>>()
        };
        self.books.iter().enumerate().flat_map(of).collect()
    }

    /// Sends what was under way again, until it is acknowledged.
    async fn settle(&mut self, hospital: &Hospital) {
        for (client, book) in self.books.iter_mut().enumerate() {
            let Some(readings) = book.unanswered.take() else { continue };
            let (status, answer) = hospital.post("/readings", &body(client, &readings)).await;
            assert_eq!(status, 201, "{answer}");
            book.acknowledged.extend(readings);
        }
    }
}

/// What is stored, and how often.
async fn stored(pool: &PgPool) -> HashMap<Key, (i64, f64)> {
    let rows: Vec<(String, String, DateTime<Utc>, i64, f64)> = sqlx::query_as(
        "select patient_id, source_id, occurred_at, count(*), min(value) \
         from event where type = 'reading' group by 1, 2, 3",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    rows.into_iter().map(|(p, d, at, n, value)| ((p, d, at), (n, value))).collect()
}

/// Every acknowledged reading once, nothing that was not sent, views that agree.
async fn check(clients: &Clients, hospital: &Hospital, pool: &PgPool) {
    let (acknowledged, stored) = (clients.acknowledged(), stored(pool).await);
    let lost: Vec<_> = acknowledged.keys().filter(|key| !stored.contains_key(*key)).collect();
    assert!(lost.is_empty(), "{} acknowledged and lost: {lost:?}", lost.len());
    assert_eq!(stored.len(), acknowledged.len(), "stored, but never sent or never settled");
    for (key, (times, value)) in &stored {
        assert_eq!((*times, value), (1, &acknowledged[key]), "{key:?}");
    }
    let mut newest: BTreeMap<&str, DateTime<Utc>> = BTreeMap::new();
    for (patient, _, at) in acknowledged.keys() {
        let found = newest.entry(patient).or_insert(*at);
        *found = (*found).max(*at);
    }
    assert_eq!(newest.len(), PATIENTS);
    for (patient, at) in newest {
        let view = hospital.found(&format!("/patients/{patient}/heart-rate")).await;
        assert_eq!(view["timestamp"], rfc3339(at), "{view}");
        let key = (patient.to_owned(), view["deviceId"].as_str().unwrap().to_owned(), at);
        assert_eq!(view["heartRate"].as_f64(), acknowledged.get(&key).copied(), "{view}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vitals_killed_again_and_again_loses_nothing_that_it_acknowledged() {
    let database = Database::new().await;
    let mut clients = Clients::new();
    let mut server = Server::start(&database).await;
    let mut hospital = Hospital::new(&server, "ward");
    for round in 0..3 {
        clients.until(&hospital, 300 + 250 * round, async || server.kill().await).await;
        server = Server::start(&database).await;
        hospital = hospital.after_restart(&server);
        clients.settle(&hospital).await;
        check(&clients, &hospital, &database.pool()).await;
    }
    verify(command(&scratch_dir(), Some(&database.url))).await;
}

async fn verify(mut command: tokio::process::Command) {
    let verified = command.arg("verify").output().await.unwrap();
    let said = String::from_utf8_lossy(&verified.stdout);
    assert!(verified.status.success(), "{said}{}", String::from_utf8_lossy(&verified.stderr));
    assert!(said.lines().any(|line| line == "verified"), "{said}");
}

async fn serve_embedded(dir: &Path) -> Server {
    Server::start_in(dir, None, &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vitals_and_its_database_killed_at_once_lose_nothing_that_was_acknowledged() {
    let dir = scratch_dir();
    let cluster = Cluster::of(&dir);
    let mut clients = Clients::new();
    let mut server = serve_embedded(&dir).await;
    let mut hospital = Hospital::new(&server, "ward");
    for round in 0..2 {
        let dying = async || {
            // Everything at once, before anything can notice.
            let vitals = Pid::from_raw(server.pid() as i32).unwrap();
            for pid in [vec![vitals], cluster.processes()].concat() {
                // A backend that ended by itself in between is dead as well.
                let _gone_already = kill_process(pid, Signal::KILL);
            }
            server.kill().await;
        };
        clients.until(&hospital, 400 + 300 * round, dying).await;
        server = serve_embedded(&dir).await;
        hospital = hospital.after_restart(&server);
        clients.settle(&hospital).await;
        // Joins the server that runs.
        let embedded = Embedded::start(&dir).await.unwrap();
        let pool = PgPool::connect_with(embedded.connect_options()).await.unwrap();
        let fsync: String = sqlx::query_scalar("show fsync").fetch_one(&pool).await.unwrap();
        assert_eq!(fsync, "on");
        check(&clients, &hospital, &pool).await;
        pool.close().await;
        embedded.stop().await.unwrap();
    }
    verify(command(&dir, None)).await;
    let (status, _) = server.terminate().await;
    assert!(status.success(), "{status}");
    assert_eq!(cluster.postmaster(), None, "the last one out stops the server");
    std::fs::remove_dir_all(&dir).unwrap();
}
