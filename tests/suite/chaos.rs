//! Chaos: two instances, one PostgreSQL, clients that send and send again, and somebody
//! who kills, freezes, crowds and cuts everything meanwhile.
//!
//! In the end every acknowledged reading is in the log exactly once, every reading in
//! the log was sent, and the chain and the projections verify. What was done is drawn
//! from a seed, which is printed; the order in which processes meet it is the machine's.
//!
//! `VITALS_CHAOS_FOR` says for how long, as 2m; `VITALS_CHAOS_SEED` which seed.
//! `script/chaos` sets both.

pub mod books;
pub mod clients;
mod deeds;
mod embedded;
pub mod instances;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::cluster::Cluster;
use crate::support::postgres::url_of_server;
use crate::support::proxy::Proxy;
use crate::support::server::{command, scratch_dir};
use crate::support::{eventually, pass_time};
use books::{Books, Row, Verdict, newest};
use clients::Client;
use deeds::{Deed, Villain};
use instances::{Ends, Instance, Order, Seat};

/// How long it goes on when nobody says.
const FOR: Duration = Duration::from_secs(10);
const INSTANCES: usize = 2;
const CLIENTS: u64 = 12;
/// Two instances open fewer, and what is left is soon taken.
const CONNECTIONS_MAX: &str = "120";
/// After a deed was undone somebody must be acknowledged again within this.
const RECOVERED_MAX: Duration = Duration::from_secs(30);
/// Between two kills or freezes of vitals.
const PAUSE_MS: std::ops::Range<u64> = 700..3_000;
const TENANT: &str = "ward";

fn given<T>(name: &str, parse: impl FnOnce(&str) -> Option<T>, otherwise: T) -> T {
    match std::env::var(name) {
        Ok(text) => parse(&text).unwrap_or_else(|| panic!("{name}={text} cannot be read")),
        Err(_) => otherwise,
    }
}

/// Everything that takes part.
struct Scene {
    books: Arc<Mutex<Books>>,
    ends: Arc<Ends>,
    instances: Arc<Vec<Instance>>,
    villain: Villain,
    clients: JoinSet<()>,
    enough: CancellationToken,
}

impl Scene {
    async fn open(seed: u64, lasts: Duration) -> Scene {
        let cluster = Cluster::start(&[("max_connections", CONNECTIONS_MAX)]).await;
        let (books, ends) = (Arc::<Mutex<Books>>::default(), Arc::<Ends>::default());
        let (mut proxies, mut instances) = (Vec::new(), Vec::new());
        for _ in 0..INSTANCES {
            let proxy = Proxy::before_server(&cluster.options()).await;
            let seat = Seat { dir: scratch_dir(), url: Some(proxy.url.clone()) };
            instances.push(Instance::start(seat, TENANT, &ends));
            proxies.push(proxy);
        }
        let doors: Vec<_> = instances.iter().map(|instance| instance.door.clone()).collect();
        for door in &doors {
            door.clone().wait_for(Option::is_some).await.expect("it starts");
        }
        let (mut clients, enough) = (JoinSet::new(), CancellationToken::new());
        for n in 0..CLIENTS {
            let client = Client::new(seed.wrapping_add(1 + n), &books, &doors);
            clients.spawn(client.run(enough.clone()));
        }
        let villain = Villain::new(seed, lasts, cluster, proxies);
        Scene { books, ends, instances: Arc::new(instances), villain, clients, enough }
    }

    /// One deed after the other; how long it took at most, after each kind, until somebody
    /// was acknowledged again.
    async fn play(&mut self, lasts: Duration) -> BTreeMap<Deed, Duration> {
        let started = Instant::now();
        let mut slowest: BTreeMap<Deed, Duration> = BTreeMap::new();
        while started.elapsed() < lasts {
            let deed = self.villain.act().await;
            let (undone, before) = (Instant::now(), self.acknowledged_requests());
            eventually(&format!("recovery from {deed:?}"), RECOVERED_MAX, async || {
                (self.acknowledged_requests() > before).then_some(())
            })
            .await;
            let of_deed = slowest.entry(deed).or_default();
            *of_deed = (*of_deed).max(undone.elapsed());
        }
        slowest
    }

    fn acknowledged_requests(&self) -> usize {
        self.books.lock().unwrap().acknowledged_requests
    }

    /// Ends the clients, which first get rid of what is still open, and the instances.
    async fn close(mut self) -> (Books, Arc<Ends>, Villain, Duration) {
        self.enough.cancel();
        let calm = Instant::now();
        let settled = async { while self.clients.join_next().await.is_some() {} };
        tokio::time::timeout(RECOVERED_MAX, settled).await.expect("what was open to be taken");
        let settled = calm.elapsed();
        let instances = Arc::into_inner(self.instances).expect("nobody else has them");
        for instance in instances {
            assert!(instance.stop().await, "an instance did not end well");
        }
        let books = Arc::into_inner(self.books).expect("the clients are gone");
        (books.into_inner().unwrap(), self.ends, self.villain, settled)
    }
}

/// Kills or freezes an instance now and then.
async fn harass(seed: u64, instances: Arc<Vec<Instance>>, enough: CancellationToken) {
    let mut rng = StdRng::seed_from_u64(seed);
    loop {
        let pause = Duration::from_millis(rng.random_range(PAUSE_MS));
        tokio::select! {
            () = enough.cancelled() => return,
            () = pass_time(pause) => {}
        }
        let order = match rng.random_range(0..3) {
            0 => Order::Freeze(Duration::from_millis(rng.random_range(100..1_500))),
            _ => Order::Kill,
        };
        instances[rng.random_range(0..INSTANCES)].order(order).await;
    }
}

/// `vitals verify` says verified; its last words if it does not.
async fn verify(url: &str) -> Result<(), String> {
    let verified = command(&scratch_dir(), Some(url)).arg("verify").output().await.unwrap();
    let said = String::from_utf8_lossy(&verified.stdout);
    match verified.status.success() && said.lines().any(|line| line == "verified") {
        true => Ok(()),
        false => Err(format!("{said}{}", String::from_utf8_lossy(&verified.stderr))),
    }
}

/// Every reading of the log.
pub async fn rows(pool: &PgPool) -> Vec<Row> {
    sqlx::query_as(
        "select patient_id, vital::text as vital, occurred_at, source_id, value, shard, position \
         from event where type = 'reading'",
    )
    .fetch_all(pool)
    .await
    .expect("the log")
}

/// Whether the current state of each patient and vital is the newest row of the log.
async fn states_differing(pool: &PgPool, rows: &[Row]) -> Vec<String> {
    let found: Vec<Row> = sqlx::query_as(
        "select patient_id, vital::text as vital, occurred_at, source_id, value, shard, position \
         from current_vitals",
    )
    .fetch_all(pool)
    .await
    .expect("the states");
    let expected = newest(rows);
    let mut found: BTreeMap<_, _> =
        found.into_iter().map(|row| ((row.patient_id.clone(), row.vital.clone()), row)).collect();
    let mut differing = Vec::new();
    for (key, row) in expected {
        match found.remove(&key) {
            Some(state) if (state.position, state.value) == (row.position, row.value) => {}
            other => differing.push(format!("{key:?}: {other:?} and not {row:?}")),
        }
    }
    differing.extend(found.into_keys().map(|key| format!("{key:?} has no reading")));
    differing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_frozen_or_cut_nothing_acknowledged_is_lost_or_doubled() {
    let lasts = given("VITALS_CHAOS_FOR", |text| humantime::parse_duration(text).ok(), FOR);
    let seed = given("VITALS_CHAOS_SEED", |text| text.parse().ok(), rand::random::<u32>().into());
    println!("chaos: seed={seed} for={lasts:?}");
    let mut scene = Scene::open(seed, lasts).await;
    let calm = CancellationToken::new();
    let harassing = tokio::spawn(harass(seed ^ 1, scene.instances.clone(), calm.clone()));
    let slowest = scene.play(lasts).await;
    calm.cancel();
    harassing.await.unwrap();

    let (books, ends, villain, settled) = scene.close().await;
    let options = villain.cluster.options();
    drop(villain.cluster.connect().await);
    let pool = PgPool::connect_with(options.clone()).await.unwrap();
    let verified = verify(&url_of_server(&options)).await;
    let rows = rows(&pool).await;
    let verdict = books.compare(&rows);
    let states = states_differing(&pool, &rows).await;
    pool.close().await;

    report(&verdict, &books, &ends, &villain);
    let slowest: Vec<String> =
        slowest.iter().map(|(deed, took)| format!("{deed:?}={:.1}s", took.as_secs_f64())).collect();
    println!("slowest recovery: {}; in the end all settled after {settled:?}", slowest.join(" "));
    let by_itself = ends.by_itself.lock().unwrap().clone();
    let seed = format!("VITALS_CHAOS_SEED={seed}");
    assert_eq!(by_itself, Vec::<String>::new(), "vitals ended by itself, {seed}");
    assert_eq!(verified, Ok(()), "{seed}");
    assert!(verdict.sound(), "{verdict:#?}, {seed}");
    assert_eq!(states, Vec::<String>::new(), "{seed}");
    assert!(verdict.acknowledged > 0 && !villain.done.is_empty(), "nothing happened");
}

fn report(verdict: &Verdict, books: &Books, ends: &Ends, villain: &Villain) {
    let deeds: Vec<String> =
        villain.done.iter().map(|(deed, times)| format!("{deed:?}={times}")).collect();
    println!(
        "appended={} acknowledged={} lost={} doubled={} strangers={} altered={} lies={} \
         requests: acknowledged={} refused={} broken={} vitals: killed={} frozen={} not_ready={} \
         postgres: {}",
        verdict.appended,
        verdict.acknowledged,
        verdict.lost,
        verdict.doubled,
        verdict.strangers,
        verdict.altered,
        verdict.lies.len(),
        books.acknowledged_requests,
        books.refused_requests,
        books.broken_requests,
        ends.killed.load(Ordering::Relaxed),
        ends.frozen.load(Ordering::Relaxed),
        ends.not_ready.load(Ordering::Relaxed),
        deeds.join(" "),
    );
}
