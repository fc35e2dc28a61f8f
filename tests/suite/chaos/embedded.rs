//! Chaos with an embedded database: two instances on one data directory, whose PostgreSQL
//! nobody but themselves starts again. It is killed, and its disk filled and freed.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::{Signal, kill_process};
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::books::Books;
use super::clients::Client;
use super::instances::{Ends, Instance, Order, Seat};
use super::{CLIENTS, FOR, INSTANCES, PAUSE_MS, TENANT, given, rows, states_differing};
use crate::support::cluster::Cluster;
use crate::support::disk::{Dir, Disk};
use crate::support::server::command;
use crate::support::{eventually, pass_time};

/// Room for a cluster and its log, so that filling the rest takes no time.
const DISK_MEGABYTES: u32 = 700;
/// How long a disk stays full.
const FULL_MS: std::ops::Range<u64> = 300..3_000;
/// After a deed was undone somebody must be acknowledged again within this: the longest
/// pause between two starts, a recovery, and a machine that does other things as well.
const RECOVERED_MAX: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, Debug)]
enum Deed {
    /// `kill -9` of the postmaster.
    Killed,
    /// `kill -9` of one of its processes, as the system does when memory is short.
    OneKilled,
    /// No room is left, for a while.
    Filled,
    /// The same, and it has to recover meanwhile.
    FilledAndKilled,
}

/// Where it plays: on a disk that can be filled, if there may be one.
enum Stage {
    Disk(Disk),
    Dir(Dir),
}

impl Stage {
    fn path(&self) -> &Path {
        match self {
            Stage::Disk(disk) => disk.path(),
            Stage::Dir(dir) => dir.path(),
        }
    }
}

struct Villain {
    stage: Stage,
    rng: StdRng,
    bag: Vec<Deed>,
}

impl Villain {
    async fn act(&mut self) -> Deed {
        if self.bag.is_empty() {
            self.bag = vec![Deed::Killed, Deed::OneKilled];
            if matches!(self.stage, Stage::Disk(_)) {
                self.bag.extend([Deed::Filled, Deed::FilledAndKilled]);
            }
            self.bag.shuffle(&mut self.rng);
        }
        let deed = self.bag.pop().expect("the bag was filled");
        let full = Duration::from_millis(self.rng.random_range(FULL_MS));
        match (deed, &self.stage) {
            (Deed::Killed, _) => self.kill(),
            (Deed::Filled | Deed::FilledAndKilled, Stage::Disk(disk)) => {
                disk.fill();
                if matches!(deed, Deed::FilledAndKilled) {
                    self.kill();
                }
                pass_time(full).await;
                disk.free();
            }
            _ => self.kill_one(),
        }
        deed
    }

    /// Of the instances, and so never dropped here: that would end it.
    fn cluster(&self) -> ManuallyDrop<Cluster> {
        ManuallyDrop::new(Cluster::of(self.stage.path()))
    }

    fn kill(&self) {
        // It may be down from the deed before.
        if let Some(pid) = self.cluster().postmaster() {
            let _gone_already = kill_process(pid, Signal::KILL);
        }
    }

    fn kill_one(&mut self) {
        let cluster = self.cluster();
        let children = cluster.postmaster().map(|_| cluster.children()).unwrap_or_default();
        if let Some(nth) = self.rng.random_range(0..1000_usize).checked_rem(children.len()) {
            let _gone_already = kill_process(children[nth], Signal::KILL);
        }
    }
}

/// Kills an instance now and then.
async fn harass(seed: u64, instances: Arc<Vec<Instance>>, enough: CancellationToken) {
    let mut rng = StdRng::seed_from_u64(seed);
    loop {
        let pause = Duration::from_millis(rng.random_range(PAUSE_MS)) * 2;
        tokio::select! {
            () = enough.cancelled() => return,
            () = pass_time(pause) => {}
        }
        let nth = rng.random_range(0..INSTANCES);
        instances[nth].order(Order::Kill).await;
    }
}

async fn verify(dir: PathBuf) -> Result<(), String> {
    let verified = command(&dir, None).arg("verify").output().await.unwrap();
    let said = String::from_utf8_lossy(&verified.stdout);
    match verified.status.success() && said.lines().any(|line| line == "verified") {
        true => Ok(()),
        false => Err(format!("{said}{}", String::from_utf8_lossy(&verified.stderr))),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_database_that_is_killed_and_filled_loses_and_doubles_nothing() {
    let lasts = given("VITALS_CHAOS_FOR", |text| humantime::parse_duration(text).ok(), FOR);
    let seed: u64 =
        given("VITALS_CHAOS_SEED", |text| text.parse().ok(), rand::random::<u32>().into());
    println!("chaos, embedded: seed={seed} for={lasts:?}");
    let stage = Disk::mount(DISK_MEGABYTES).map(Stage::Disk);
    let stage = stage.unwrap_or_else(|| Stage::Dir(Dir::new("chaos")));
    let dir = stage.path().to_owned();
    let (books, ends) = (Arc::<Mutex<Books>>::default(), Arc::<Ends>::default());
    let seat = Seat { dir: dir.clone(), url: None };
    let instances: Vec<_> =
        (0..INSTANCES).map(|_| Instance::start(seat.clone(), TENANT, &ends)).collect();
    let doors: Vec<_> = instances.iter().map(|instance| instance.door.clone()).collect();
    for door in &doors {
        door.clone().wait_for(Option::is_some).await.expect("it starts");
    }
    let (mut clients, enough) = (JoinSet::new(), CancellationToken::new());
    for n in 0..CLIENTS {
        let client = Client::new(seed.wrapping_add(1 + n), &books, &doors);
        clients.spawn(client.run(enough.clone()));
    }
    let (instances, calm) = (Arc::new(instances), CancellationToken::new());
    let harassing = tokio::spawn(harass(seed ^ 1, instances.clone(), calm.clone()));
    let mut villain = Villain { stage, rng: StdRng::seed_from_u64(seed), bag: Vec::new() };

    let (began, mut done) = (Instant::now(), Vec::new());
    let acknowledged = || books.lock().unwrap().acknowledged_requests;
    while began.elapsed() < lasts || done.len() < 4 {
        let deed = villain.act().await;
        let (undone, before) = (Instant::now(), acknowledged());
        eventually(&format!("recovery from {deed:?}"), RECOVERED_MAX, async || {
            (acknowledged() > before).then_some(())
        })
        .await;
        done.push(format!("{deed:?}={:.1}s", undone.elapsed().as_secs_f64()));
    }
    calm.cancel();
    harassing.await.unwrap();
    enough.cancel();
    let settled = async { while clients.join_next().await.is_some() {} };
    tokio::time::timeout(RECOVERED_MAX, settled).await.expect("what was open to be taken");
    for instance in Arc::into_inner(instances).expect("nobody else has them") {
        assert!(instance.stop().await, "an instance did not end well");
    }

    let verified = verify(dir.clone()).await;
    let mut cluster = Cluster::of(&dir);
    cluster.up().await;
    let pool = PgPool::connect_with(cluster.options()).await.unwrap();
    let rows = rows(&pool).await;
    let books = Arc::into_inner(books).expect("the clients are gone").into_inner().unwrap();
    let verdict = books.compare(&rows);
    let states = states_differing(&pool, &rows).await;
    pool.close().await;
    println!(
        "appended={} acknowledged={} lost={} doubled={} strangers={} altered={} lies={} deeds: {}",
        verdict.appended,
        verdict.acknowledged,
        verdict.lost,
        verdict.doubled,
        verdict.strangers,
        verdict.altered,
        verdict.lies.len(),
        done.join(" ")
    );
    let by_itself = ends.by_itself.lock().unwrap().clone();
    let seed = format!("VITALS_CHAOS_SEED={seed}");
    assert_eq!(by_itself, Vec::<String>::new(), "vitals ended by itself, {seed}");
    assert_eq!(verified, Ok(()), "{seed}");
    assert!(verdict.sound(), "{verdict:#?}, {seed}");
    assert_eq!(states, Vec::<String>::new(), "{seed}");
    assert!(verdict.acknowledged > 0, "nothing happened");
}
