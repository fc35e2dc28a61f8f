//! Consumers make way for what comes in, unless somebody waits for them; and who is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use sqlx::postgres::PgListener;
use sqlx::{Connection, PgConnection};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use vitals::consumer::{self, Consumer, ConsumerError, Follows};
use vitals::event::Event;
use vitals::log::{Log, Window};
use vitals::projection::{Apply, CURRENT_VITALS, Projection, ROLLUP};
use vitals::rules::{RuleSnapshot, RulesConsumer};

use crate::log::{reading, time};
use crate::support::postgres::Database;
use crate::support::{TWELVE_SECONDS, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Readings, a second apart.
fn readings(seconds: std::ops::Range<i64>) -> Vec<Event> {
    let at = |n| time("2026-03-01T00:00:00Z") + TimeDelta::seconds(n);
    seconds.map(|n| reading("p", at(n))).collect()
}

#[tokio::test]
async fn a_fold_waits_for_its_turn_unless_a_reader_waits_for_it() {
    let database = Database::new().await;
    let log = database.log().await;
    let stop = CancellationToken::new();
    let shard = log.shard_of("ward", "p");
    let (turns, mut workers) = (Arc::new(Semaphore::new(1)), JoinSet::new());
    let taken = turns.acquire().await.unwrap();
    // The slower one takes no turns: when it is there, the other one would have been.
    for (projection, turns) in [(&CURRENT_VITALS, Some(turns.clone())), (&ROLLUP, None)] {
        let (log, pool, apply) = (log.clone(), log.pool().clone(), Arc::new(Apply(projection)));
        workers.spawn(consumer::run(log, pool, apply, shard, turns, stop.clone()));
    }
    let is_folded = async |projection: &Projection| {
        let sql = "select c.position = h.position from checkpoint c join shard_head h using (shard) \
                   where c.consumer = $1 and c.shard = $2";
        let asked = sqlx::query_scalar::<_, bool>(sql).bind(projection.consumer).bind(shard);
        asked.fetch_one(log.pool()).await.unwrap()
    };
    log.append(shard, &[reading("p", time("2026-03-01T00:00:00Z"))]).await.unwrap();
    eventually("sums to be folded", SOON, async || is_folded(&ROLLUP).await.then_some(())).await;
    assert!(!is_folded(&CURRENT_VITALS).await, "it did not wait for its turn");
    log.wake().hurry(log.pool(), CURRENT_VITALS.consumer, shard).await;
    let wanted = async || is_folded(&CURRENT_VITALS).await.then_some(());
    eventually("what a reader waits for to be folded", SOON, wanted).await;
    log.append(shard, &[reading("p", time("2026-03-01T00:00:01Z"))]).await.unwrap();
    drop(taken);
    let due = async || is_folded(&CURRENT_VITALS).await.then_some(());
    eventually("what is due to be folded in its turn", SOON, due).await;
    stop.cancel();
    while workers.join_next().await.is_some() {}
}

/// Takes ten positions at a time and tells what its one statement says.
struct Telling {
    says: &'static str,
    pace: Duration,
    told: mpsc::UnboundedSender<String>,
}

/// How long a scan would have rested.
const REST: &str = "select current_setting('vitals.rest_ms')";
/// Longer than any test: what is not waited for does not come.
const NEVER: Duration = Duration::from_secs(300);

impl Consumer for Telling {
    type Done = ();

    fn name(&self) -> &str {
        "telling"
    }

    fn follows(&self) -> Follows {
        Follows::Everything
    }

    fn window_positions_max(&self) -> i64 {
        10
    }

    fn pace(&self) -> Duration {
        self.pace
    }

    fn rest(&self) -> Duration {
        Duration::from_millis(7)
    }

    async fn act(&self, tx: &mut PgConnection, _: &Window) -> Result<(), ConsumerError> {
        self.told.send(sqlx::query_scalar(self.says).fetch_one(tx).await?).unwrap();
        Ok(())
    }
}

/// A consumer that follows a shard, until it is stopped.
struct Following {
    log: Log,
    shard: i16,
    told: mpsc::UnboundedReceiver<String>,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl Following {
    async fn start(log: &Log, shard: i16, says: &'static str, pace: Duration) -> Following {
        let (tell, told) = mpsc::unbounded_channel();
        let telling = Arc::new(Telling { says, pace, told: tell });
        let mut connection = log.pool().acquire().await.unwrap();
        consumer::register(&mut connection, telling.name(), log.shards()).await.unwrap();
        let (stop, pool) = (CancellationToken::new(), log.pool().clone());
        let run = consumer::run(log.clone(), pool, telling, shard, None, stop.clone());
        Following { log: log.clone(), shard, told, stop, run: tokio::spawn(run) }
    }

    /// What the next step says.
    async fn next(&mut self) -> String {
        tokio::time::timeout(SOON, self.told.recv()).await.unwrap().unwrap()
    }

    async fn hurry(&self) {
        self.log.wake().hurry(self.log.pool(), "telling", self.shard).await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.run.await.unwrap();
    }
}

/// What was given up holds the shard until its statement ends. That nothing can be done
/// meanwhile must not make anybody less patient.
#[tokio::test]
async fn a_step_that_is_only_slow_gets_its_time() {
    const TWO_TRIES: Duration = Duration::from_secs(45);
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    log.append(shard, &readings(0..1)).await.unwrap();
    let mut slow = Following::start(&log, shard, TWELVE_SECONDS, Duration::ZERO).await;
    let done = tokio::time::timeout(TWO_TRIES, slow.told.recv());
    assert!(done.await.is_ok(), "its step was never done");
    slow.stop().await;
}

#[tokio::test]
async fn a_fold_rests_unless_it_is_behind_or_a_reader_waits_for_it() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    log.append(shard, &readings(0..25)).await.unwrap();
    let mut resting = Following::start(&log, shard, REST, NEVER).await;
    let rests = [resting.next().await, resting.next().await, resting.next().await];
    assert_eq!(rests, ["7", "0", "0"], "behind after the first");
    log.append(shard, &readings(25..30)).await.unwrap();
    resting.hurry().await;
    assert_eq!(resting.next().await, "0", "somebody waits");
    resting.stop().await;
}

/// Without that it would look for itself after half a second, each time.
#[tokio::test]
async fn who_is_waited_for_looks_at_once_also_at_what_another_instance_appended() {
    const ROUNDS: i64 = 20;
    let database = Database::new().await;
    let (log, elsewhere) = (database.log().await, database.log().await);
    let shard = log.shard_of("ward", "p");
    let mut resting = Following::start(&log, shard, REST, NEVER).await;
    let started = Instant::now();
    for n in 0..ROUNDS {
        elsewhere.append(shard, &readings(n..n + 1)).await.unwrap();
        resting.hurry().await;
        resting.next().await;
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    resting.stop().await;
}

#[tokio::test]
async fn until_the_rules_have_taken_a_step_every_reading_is_urgent() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    let rules = RulesConsumer::new(log.clone(), RuleSnapshot::new().unwrap());
    consumer::register(&mut log.pool().acquire().await.unwrap(), rules.name(), log.shards())
        .await
        .unwrap();
    let mut urgent = log.wake().follow_urgent(shard);
    let mut is_urgent = async |n, value| {
        urgent.mark_unchanged();
        let mut events = readings(n..n + 1);
        events[0].value = Some(value);
        log.append(shard, &events).await.unwrap();
        urgent.has_changed().unwrap()
    };
    assert!(is_urgent(0, 80.0).await, "nobody knows yet what the rules are");
    consumer::step(log.pool(), &rules, shard).await.unwrap();
    assert!(!is_urgent(1, 80.0).await);
    assert!(is_urgent(2, 190.0).await);
}

/// As many as there may be in that time, however fast the machine is.
#[tokio::test]
async fn readings_that_no_rule_hurries_for_are_told_of_every_25_ms_at_most() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    log.wake().hurry_for(|_| false);
    let mut listener = PgListener::connect(&database.url).await.unwrap();
    listener.listen("vitals_log").await.unwrap();
    let relay = tokio::spawn({
        let log = log.clone();
        async move { log.wake().relay(log.pool().clone()).await }
    });
    let started = Instant::now();
    for n in 0..100 {
        log.append(shard, &readings(n..n + 1)).await.unwrap();
    }
    sqlx::query("select pg_notify('vitals_log', 'end')").execute(log.pool()).await.unwrap();
    let (most, mut told) = (started.elapsed().as_millis() / 25 + 2, 0);
    while listener.recv().await.unwrap().payload() != "end" {
        told += 1;
    }
    assert!((1..=most).contains(&told), "{told} times, {most} at most");
    relay.abort();
}

#[tokio::test]
async fn a_scan_rests_where_its_transaction_says_so() {
    let database = Database::new().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let scan = "select count(*) from generate_series(1, 1024) position where rested(position)";
    let mut tx = connection.begin().await.unwrap();
    let rest = sqlx::query("select set_config('vitals.rest_ms', '20', true)");
    rest.execute(&mut *tx).await.unwrap();
    let started = Instant::now();
    assert_eq!(sqlx::query_scalar::<_, i64>(scan).fetch_one(&mut *tx).await.unwrap(), 1_024);
    assert!(started.elapsed() >= Duration::from_millis(80), "four rests: {:?}", started.elapsed());
    tx.commit().await.unwrap();
    // Nobody says anything: on this connection, and on one where nobody ever did.
    assert_eq!(sqlx::query_scalar::<_, i64>(scan).fetch_one(&mut connection).await.unwrap(), 1_024);
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, i64>(scan).fetch_one(&mut other).await.unwrap(), 1_024);
}
