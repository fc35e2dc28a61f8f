//! One fault at a time, and what vitals promises about it: it says come again, stays
//! up, goes on by itself, and loses nothing that it acknowledged.

mod disk;
mod waiting;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vitals::clock::rfc3339;

use crate::chaos::books::{Books, Verdict};
use crate::chaos::clients::{Client, Door};
use crate::chaos::rows;
use crate::hospital::{Hospital, heart_rate, now};
use crate::streams::Events;
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::postgres::{Database, caught_up};
use crate::support::proxy::{Proxy, Way};
use crate::support::server::{Server, scratch_dir};

const SOON: Duration = Duration::from_secs(60);
/// How long a reading may wait for its commit, and some.
const TOLD_MAX: Duration = Duration::from_secs(14);
/// A silence of 10 s, and what comes after it: connections that were idle are tried first.
const GIVEN_UP_MAX: Duration = Duration::from_secs(22);

/// A status, and after how many seconds to come again.
struct Told {
    status: u16,
    again_s: Option<u32>,
    body: Value,
    took: Duration,
}

async fn tell(hospital: &Hospital, body: &Value) -> Told {
    let started = Instant::now();
    let request = hospital.request(Method::POST, "/readings").json(body);
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let again = answer.headers().get("retry-after");
    let again_s = again.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
    let body = answer.json().await.unwrap();
    Told { status, again_s, body, took: started.elapsed() }
}

/// Sends until it is taken; how long that took.
async fn until_taken(hospital: &Hospital, body: &Value, limit: Duration) -> Duration {
    let started = Instant::now();
    eventually("a reading to be taken", limit, async || {
        let told = tell(hospital, body).await;
        assert!(told.status == 201 || told.again_s.is_some(), "{} {}", told.status, told.body);
        (told.status == 201).then_some(())
    })
    .await;
    started.elapsed()
}

/// Clients that send meanwhile.
struct Load {
    books: Arc<Mutex<Books>>,
    clients: JoinSet<()>,
    enough: CancellationToken,
    _door: watch::Sender<Option<Hospital>>,
}

impl Load {
    fn start(hospital: &Hospital, clients: u64) -> Load {
        let (door, is_open) = watch::channel(Some(hospital.clone()));
        let (books, enough) = (Arc::<Mutex<Books>>::default(), CancellationToken::new());
        let mut sending = JoinSet::new();
        let doors: [Door; 1] = [is_open];
        for seed in 0..clients {
            sending.spawn(Client::new(seed, &books, &doors).run(enough.clone()));
        }
        Load { books, clients: sending, enough, _door: door }
    }

    fn acknowledged(&self) -> usize {
        self.books.lock().unwrap().acknowledged_requests
    }

    /// Until so many more requests were acknowledged; how long that took.
    async fn more(&self, requests: usize) -> Duration {
        let (started, before) = (Instant::now(), self.acknowledged());
        eventually("requests to be acknowledged", SOON, async || {
            (self.acknowledged() >= before + requests).then_some(())
        })
        .await;
        started.elapsed()
    }

    /// Ends it when everything is settled, and compares.
    async fn compare(mut self, pool: &PgPool) -> Verdict {
        self.enough.cancel();
        let settled = async { while self.clients.join_next().await.is_some() {} };
        tokio::time::timeout(SOON, settled).await.expect("everything to be settled");
        let rows = rows(pool).await;
        self.books.lock().unwrap().compare(&rows)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_killed_under_load_is_found_again_and_nothing_is_lost() {
    let mut cluster = Cluster::start(&[]).await;
    let proxy = Proxy::before_server(&cluster.options()).await;
    let server = Server::start_in(&scratch_dir(), Some(&proxy.url), &[]).await;
    let load = Load::start(&Hospital::new(&server, "ward"), 6);
    let pid = server.pid();
    for signal in [Signal::KILL, Signal::QUIT] {
        load.more(20).await;
        cluster.restart(signal).await;
        let recovered = load.more(1).await;
        assert!(recovered < Duration::from_secs(15), "{recovered:?}");
    }
    load.more(20).await;
    let pool = PgPool::connect_with(cluster.options()).await.unwrap();
    let verdict = load.compare(&pool).await;
    assert!(verdict.sound(), "{verdict:#?}");
    assert_eq!(server.pid(), pid, "it was never restarted");
    assert!(server.terminate().await.0.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_free_connection_it_says_come_again_and_goes_on_when_there_is_one() {
    let cluster = Cluster::start(&[("max_connections", "70")]).await;
    let proxy = Proxy::before_server(&cluster.options()).await;
    let server = Server::start_in(&scratch_dir(), Some(&proxy.url), &[]).await;
    let hospital = Hospital::new(&server, "ward");
    hospital.measure("101", 80.0).await;
    // Its own connections break, and while it cannot get new ones, others take them all.
    proxy.set(Way::Cut);
    let mut admin = cluster.connect().await;
    let sql = "select count(*) from pg_stat_activity where application_name = 'vitals'";
    let mut left: i64 = 1;
    while left > 0 {
        left = sqlx::query_scalar(sql).fetch_one(&mut admin).await.unwrap();
    }
    let crowd = cluster.crowd().await;
    proxy.set(Way::Open);
    let reading = heart_rate("101", 90.0, now());
    let told = tell(&hospital, &reading).await;
    assert_eq!((told.status, told.body["code"].as_str()), (503, Some("log_unavailable")));
    assert!(told.again_s.is_some() && told.took < TOLD_MAX, "{:?}", told.took);
    let live = server.client().get(server.url("/health/live")).send().await.unwrap();
    assert_eq!(live.status(), 200);
    drop(crowd);
    until_taken(&hospital, &reading, Duration::from_secs(15)).await;
    eventually("the folds to go on as well", SOON, async || {
        let (status, view) = hospital.get("/patients/101/heart-rate").await;
        (status == 200 && view["heartRate"] == 90).then_some(())
    })
    .await;
}

/// Different readings of one moment to the next.
fn many(patient: &str, first: usize, count: usize) -> Value {
    let (device, at) = (format!("d{first}"), now());
    let reading = |n: usize| {
        let at = at - chrono::TimeDelta::milliseconds(n as i64);
        json!({
            "patientId": patient, "deviceId": device, "vital": "heart_rate", "value": 80,
            "measuredAt": rfc3339(at),
        })
    };
    (0..count).map(reading).collect()
}

/// The most memory that the process ever had, in kB.
fn memory_kb_max(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("the line");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_database_makes_answers_slow_and_a_full_queue_is_told_at_once() {
    const LARGE: usize = 10_000;
    const MEMORY_KB_MAX: u64 = 300 * 1024;
    let database = Database::new().await;
    let proxy = Proxy::before(&database).await;
    let server = Server::start_in(&scratch_dir(), Some(&proxy.url), &[]).await;
    let hospital = Hospital::new(&server, "ward");
    hospital.measure("101", 80.0).await;

    let delay = Duration::from_millis(200);
    proxy.set(Way::Slow(delay));
    let told = tell(&hospital, &heart_rate("101", 81.0, now())).await;
    assert_eq!(told.status, 201, "{}", told.body);
    assert!((delay..10 * delay).contains(&told.took), "{:?}", told.took);

    // Now nothing gets through, and as much as may wait is handed in.
    proxy.set(Way::Stuck);
    let before = memory_kb_max(&server);
    let mut sending = JoinSet::new();
    for n in 0..12 {
        let (hospital, body) = (hospital.clone(), many(&format!("p{n}"), n, LARGE));
        sending.spawn(async move { (tell(&hospital, &body).await, body) });
    }
    let small = many("101", 99, 1);
    let told = eventually("the queue to be full", TOLD_MAX, async || {
        // One that waits is not waited for: it is told at its time.
        let asked = Duration::from_millis(800);
        let told = tokio::time::timeout(asked, tell(&hospital, &many("101", 98, LARGE))).await;
        told.ok().filter(|told| told.body["code"] == "queue_full")
    })
    .await;
    assert_eq!((told.status, told.again_s), (503, Some(1)));
    assert!(told.took < Duration::from_millis(800), "{:?}", told.took);
    let memory = memory_kb_max(&server);
    assert!(memory < before + MEMORY_KB_MAX, "from {before} kB to {memory} kB");

    // It goes on by itself; who was refused sends again, and nothing is there twice.
    proxy.set(Way::Open);
    let mut expected = 0;
    while let Some(sent) = sending.join_next().await {
        let (told, body) = sent.unwrap();
        assert!(told.status == 201 || told.again_s.is_some(), "{} {}", told.status, told.body);
        if told.status != 201 {
            until_taken(&hospital, &body, SOON).await;
        }
        expected += LARGE as i64;
    }
    until_taken(&hospital, &small, SOON).await;
    let sql = "select count(*) from event where source_id = any ($1)";
    let devices: Vec<String> = (0..12).map(|n| format!("d{n}")).collect();
    let stored: i64 =
        sqlx::query_scalar(sql).bind(devices).fetch_one(&database.pool()).await.unwrap();
    assert_eq!(stored, expected);
}

/// A table that is behind does not say that there is no value.
#[tokio::test]
async fn a_value_is_found_in_the_log_while_its_projection_is_behind() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let pool = database.pool();
    let mut held = pool.begin().await.unwrap();
    let hold = "select from checkpoint where consumer = 'projection:current_vitals' for update";
    sqlx::query(hold).execute(&mut *held).await.unwrap();
    hospital.store(&[heart_rate("p", 81.0, now())]).await;
    assert_eq!(hospital.found("/patients/p/heart-rate").await["heartRate"], 81);
    held.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_swallow_everything_are_given_up() {
    let database = Database::new().await;
    let proxy = Proxy::before(&database).await;
    let server = Server::start_in(&scratch_dir(), Some(&proxy.url), &[]).await;
    let hospital = Hospital::new(&server, "ward");
    // Patients of every shard, so that every writer has had its connection.
    let everybody = |name: &str| -> Value {
        (0..12).map(|n| heart_rate(&format!("{name}{n}"), 130.0, now())).collect()
    };
    until_taken(&hospital, &everybody("p"), SOON).await;
    hospital.found("/patients/p1").await;
    let mut live = Events::open(&hospital, "/stream?types=alert", None).await;
    // As if PostgreSQL's machine had vanished and another had taken over its address.
    proxy.swallow();
    let last = everybody("q");
    let pool = database.pool();
    tokio::join!(
        until_taken(&hospital, &last, GIVEN_UP_MAX),
        eventually("a fresh answer", GIVEN_UP_MAX, async || {
            let request = hospital.request(Method::GET, "/patients/q1/heart-rate");
            let answer = request.timeout(GIVEN_UP_MAX).send().await.ok()?;
            let fresh = !answer.headers().contains_key("vitals-behind");
            let body: Value = answer.json().await.ok()?;
            (fresh && body["timestamp"] == last[1]["measuredAt"]).then_some(())
        }),
        eventually("an alert for everybody", GIVEN_UP_MAX, async || {
            let sql = "select count(*) from event where type = 'HIGH_HEART_RATE' and patient_id like 'q%'";
            let alerts: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
            (alerts == 12).then_some(())
        }),
        async {
            let told = async { while live.event().await.data.unwrap()["patientId"] != "q1" {} };
            tokio::time::timeout(GIVEN_UP_MAX, told).await.expect("who listens to be told");
        },
    );
    caught_up(&pool).await;
}

/// How many statements of vitals wait for a lock.
async fn waiting(pool: &PgPool) -> i64 {
    let sql = "select count(*) from pg_stat_activity where datname = current_database() \
               and application_name = 'vitals' and wait_event_type = 'Lock'";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// Whether any does.
async fn waits(pool: &PgPool) -> Option<()> {
    (waiting(pool).await > 0).then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_frozen_while_it_holds_a_shard_is_thrown_out() {
    let database = Database::new().await;
    let pool = database.pool();
    let frozen = Server::start_with(&database, &["--roles", "workers"]).await;
    let living = Server::start_with(&database, &["--roles", "api"]).await;
    let hospital = Hospital::new(&living, "ward");
    // It sleeps while a reading comes that raises an alert, and wakes to a locked shard.
    frozen.signal(Signal::STOP);
    hospital.measure("101", 130.0).await;
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("select from shard_head for update").execute(&mut *lock).await.unwrap();
    frozen.signal(Signal::CONT);
    eventually("the alert to be about to be appended", SOON, async || waits(&pool).await).await;
    // Now it gets the lock, and cannot do anything with it.
    frozen.signal(Signal::STOP);
    lock.rollback().await.unwrap();
    eventually("the frozen one to hold the shard", SOON, async || {
        let sql = "select count(*) from pg_stat_activity where datname = current_database() \
                   and application_name = 'vitals' and state = 'idle in transaction'";
        let holding: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
        (holding > 0).then_some(())
    })
    .await;
    let reading = heart_rate("101", 131.0, now());
    let taken = until_taken(&hospital, &reading, Duration::from_secs(30)).await;
    println!("the shard was free again after {taken:?}");
    frozen.signal(Signal::CONT);
    eventually("the alert to be raised after all", SOON, async || {
        let sql = "select count(*) from event where type = 'HIGH_HEART_RATE'";
        let alerts: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
        assert!(alerts <= 1);
        (alerts == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_frozen_in_the_middle_of_appends_does_not_hold_up_the_other() {
    let database = Database::new().await;
    let sleeper = Server::start_with(&database, &["--roles", "api"]).await;
    let living = Server::start_with(&database, &["--roles", "api"]).await;
    let load = Load::start(&Hospital::new(&sleeper, "ward"), 4);
    let hospital = Hospital::new(&living, "ward");
    for round in 0..8 {
        load.more(3 + round).await;
        sleeper.signal(Signal::STOP);
        let everybody: Value = (0..12).map(|n| heart_rate(&format!("x{n}"), 80.0, now())).collect();
        let told = tell(&hospital, &everybody).await;
        sleeper.signal(Signal::CONT);
        assert_eq!(told.status, 201, "{}", told.body);
    }
    let verdict = load.compare(&database.pool()).await;
    assert_eq!((verdict.lost, verdict.doubled, verdict.lies.len()), (0, 0, 0), "{verdict:#?}");
}
