//! Consumers make way for what comes in, unless somebody waits for them; and who is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use sqlx::postgres::PgListener;
use sqlx::{Connection, PgConnection};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vitals::consumer::{self, Consumer, ConsumerError, Follows};
use vitals::event::Event;
use vitals::log::Window;
use vitals::projection::{Apply, CURRENT_VITALS, Projection, ROLLUP};
use vitals::rules::{Book, Raise};

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

/// Its one statement takes longer than anybody waits at first.
struct Slow;

impl Consumer for Slow {
    type Done = ();

    fn name(&self) -> &str {
        "slow"
    }

    fn follows(&self) -> Follows {
        Follows::Everything
    }

    fn window_positions_max(&self) -> i64 {
        10
    }

    fn pace(&self) -> Duration {
        Duration::ZERO
    }

    async fn act(&self, tx: &mut PgConnection, _: &Window) -> Result<(), ConsumerError> {
        sqlx::query(TWELVE_SECONDS).execute(tx).await?;
        Ok(())
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
    let mut connection = log.pool().acquire().await.unwrap();
    consumer::register(&mut connection, Slow.name(), log.shards()).await.unwrap();
    drop(connection);
    log.append(shard, &readings(0..1)).await.unwrap();
    let stop = CancellationToken::new();
    let (of_run, pool) = (log.clone(), log.pool().clone());
    let run = consumer::run(of_run, pool, Arc::new(Slow), shard, None, stop.clone());
    let run = tokio::spawn(run);
    eventually("its step to be done", TWO_TRIES, async || {
        let sql = "select position from checkpoint where consumer = 'slow' and shard = $1";
        let position: i64 =
            sqlx::query_scalar(sql).bind(shard).fetch_one(log.pool()).await.unwrap();
        (position == 1).then_some(())
    })
    .await;
    stop.cancel();
    run.await.unwrap();
}

/// Takes ten positions at a time and tells how long the scan of each would have rested.
struct Resting(mpsc::UnboundedSender<String>);

impl Consumer for Resting {
    type Done = ();

    fn name(&self) -> &str {
        "resting"
    }

    fn follows(&self) -> Follows {
        Follows::Everything
    }

    fn window_positions_max(&self) -> i64 {
        10
    }

    /// Longer than the test: what is not waited for does not come.
    fn pace(&self) -> Duration {
        SOON * 10
    }

    fn rest(&self) -> Duration {
        Duration::from_millis(7)
    }

    async fn act(&self, tx: &mut PgConnection, _: &Window) -> Result<(), ConsumerError> {
        let sql = "select current_setting('vitals.rest_ms')";
        self.0.send(sqlx::query_scalar(sql).fetch_one(tx).await?).unwrap();
        Ok(())
    }
}

#[tokio::test]
async fn a_fold_rests_unless_it_is_behind_or_a_reader_waits_for_it() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    let (told, mut rests) = mpsc::unbounded_channel();
    let resting = Arc::new(Resting(told));
    let mut connection = log.pool().acquire().await.unwrap();
    consumer::register(&mut connection, resting.name(), log.shards()).await.unwrap();
    drop(connection);
    log.append(shard, &readings(0..25)).await.unwrap();
    let stop = CancellationToken::new();
    let run =
        consumer::run(log.clone(), log.pool().clone(), resting.clone(), shard, None, stop.clone());
    let follows = tokio::spawn(run);
    let mut next = async || tokio::time::timeout(SOON, rests.recv()).await.unwrap().unwrap();
    assert_eq!(
        [next().await, next().await, next().await],
        ["7", "0", "0"],
        "behind after the first"
    );
    log.append(shard, &readings(25..30)).await.unwrap();
    log.wake().hurry(log.pool(), resting.name(), shard).await;
    assert_eq!(next().await, "0", "somebody waits");
    stop.cancel();
    follows.await.unwrap();
}

/// Without that it would look for itself after half a second, each time.
#[tokio::test]
async fn who_is_waited_for_looks_at_once_also_at_what_another_instance_appended() {
    const ROUNDS: i64 = 20;
    let database = Database::new().await;
    let (log, elsewhere) = (database.log().await, database.log().await);
    let shard = log.shard_of("ward", "p");
    let (told, mut rests) = mpsc::unbounded_channel();
    let resting = Arc::new(Resting(told));
    let mut connection = log.pool().acquire().await.unwrap();
    consumer::register(&mut connection, resting.name(), log.shards()).await.unwrap();
    drop(connection);
    let stop = CancellationToken::new();
    let run =
        consumer::run(log.clone(), log.pool().clone(), resting.clone(), shard, None, stop.clone());
    let follows = tokio::spawn(run);
    let started = Instant::now();
    for n in 0..ROUNDS {
        elsewhere.append(shard, &readings(n..n + 1)).await.unwrap();
        log.wake().hurry(log.pool(), resting.name(), shard).await;
        tokio::time::timeout(SOON, rests.recv()).await.unwrap().unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    stop.cancel();
    follows.await.unwrap();
}

#[tokio::test]
async fn until_the_rules_have_taken_a_step_every_reading_is_urgent() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    let rules = Raise::new(log.clone(), Book::new().unwrap());
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
