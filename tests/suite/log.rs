//! The log, on its own: order, time, identity, months.
//!
//! Nothing here goes through the program: writers and readers stand on
//! `vitals::log`, so that a test can hold a transaction open at the very moment
//! that matters. The chain has a file of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use sqlx::PgPool;
use tokio::sync::oneshot;
use vitals::event::{Event, READING};
use vitals::log::{Appended, Log, Window, append, partition, read_window};
use vitals::vital::Vital;

use crate::support::eventually;
use crate::support::postgres::Database;

const SOON: Duration = Duration::from_secs(30);

pub fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// A heart rate that is different at every millisecond.
pub fn reading(patient: &str, at: DateTime<Utc>) -> Event {
    Event {
        tenant: "ward".into(),
        patient_id: patient.to_owned(),
        kind: READING.to_owned(),
        vital: Some(Vital::HeartRate),
        value: Some(60.0 + at.timestamp_subsec_millis() as f64 / 10.0),
        quality: None,
        suspect: false,
        occurred_at: at,
        source_id: "watch".to_owned(),
        data: None,
    }
}

/// Readings `from..to` of a patient, a millisecond apart.
pub fn readings(patient: &str, from: i64, to: i64) -> Vec<Event> {
    let start = time("2026-03-01T00:00:00Z");
    (from..to).map(|n| reading(patient, start + TimeDelta::milliseconds(n))).collect()
}

async fn head(pool: &PgPool, shard: i16) -> i64 {
    let sql = "select position from shard_head where shard = $1";
    sqlx::query_scalar(sql).bind(shard).fetch_one(pool).await.unwrap()
}

/// Waits until somebody of this database stands in front of a row lock.
pub async fn somebody_waits_for_a_lock(pool: &PgPool) {
    eventually("a writer to wait for the shard's head", SOON, || async {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity \
             where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        (waiting > 0).then_some(())
    })
    .await
}

/// Appends in a transaction that commits only when told.
fn held(
    log: &Log,
    shard: i16,
    events: Vec<Event>,
) -> (oneshot::Receiver<Appended>, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let (log, (locked, has_locked), (commit, may_commit)) =
        (log.clone(), oneshot::channel(), oneshot::channel());
    let task = tokio::spawn(async move {
        log.ensure_partitions(events.iter().map(|e| e.occurred_at)).await.unwrap();
        let mut tx = log.pool().begin().await.unwrap();
        let appended = append(&mut tx, shard, &events).await.unwrap();
        locked.send(appended).unwrap();
        may_commit.await.unwrap();
        tx.commit().await.unwrap();
    });
    (has_locked, commit, task)
}

/// Follows a shard by `position > checkpoint`, a few positions at a time.
async fn follow_to_head(pool: &PgPool, shard: i16, checkpoint: &mut i64, seen: &mut Vec<i64>) {
    const POSITIONS_PER_WINDOW: i64 = 3;
    let mut connection = pool.acquire().await.unwrap();
    let head = head(pool, shard).await;
    while *checkpoint < head {
        let to = head.min(*checkpoint + POSITIONS_PER_WINDOW);
        let window = Window::between(&mut connection, shard, *checkpoint, to).await.unwrap();
        let events = read_window(&mut connection, &window).await.unwrap();
        seen.extend(events.iter().map(|e| e.position));
        *checkpoint = to;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_commits_late_holds_back_the_one_behind_it_and_no_event_is_skipped() {
    let database = Database::new().await;
    let log = database.log().await;
    let (pool, shard) = (log.pool().clone(), log.shard_of("ward", "p"));
    let (mut checkpoint, mut seen) = (0, Vec::new());

    let (first, commit_first, first_task) = held(&log, shard, readings("p", 0, 5));
    let first = first.await.unwrap();
    let (second, commit_second, second_task) = held(&log, shard, readings("p", 5, 8));
    somebody_waits_for_a_lock(&pool).await;
    // The second has no position yet, and a reader does not pass the first.
    follow_to_head(&pool, shard, &mut checkpoint, &mut seen).await;
    assert_eq!((checkpoint, seen.len()), (0, 0));

    commit_first.send(()).unwrap();
    first_task.await.unwrap();
    let second = second.await.unwrap();
    follow_to_head(&pool, shard, &mut checkpoint, &mut seen).await;
    assert_eq!(seen, first.positions.iter().flatten().copied().collect::<Vec<_>>());
    commit_second.send(()).unwrap();
    second_task.await.unwrap();
    follow_to_head(&pool, shard, &mut checkpoint, &mut seen).await;

    let all = first.positions.iter().chain(&second.positions).flatten().copied();
    assert_eq!(seen, all.collect::<Vec<_>>());
    assert!(second.positions[0] > first.positions[4]);
    assert!(second.recorded_at >= first.recorded_at);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_shard_is_not_held_up_by_an_open_transaction() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    let other = (0..).map(|n| format!("q{n}")).find(|q| log.shard_of("ward", q) != shard).unwrap();
    let (first, commit, task) = held(&log, shard, readings("p", 0, 5));
    first.await.unwrap();
    let events = readings(&other, 0, 5);
    let stored = log.append(log.shard_of("ward", &other), &events);
    let stored = tokio::time::timeout(SOON, stored).await.expect("the other shard waited");
    assert_eq!(stored.unwrap().stored(), 5);
    commit.send(()).unwrap();
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_rolled_back_leaves_nothing_and_the_next_takes_its_place() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    log.append(shard, &readings("p", 0, 3)).await.unwrap();
    let mut tx = log.pool().begin().await.unwrap();
    let undone = append(&mut tx, shard, &readings("p", 3, 9)).await.unwrap();
    tx.rollback().await.unwrap();
    let (mut checkpoint, mut seen) = (0, Vec::new());
    follow_to_head(log.pool(), shard, &mut checkpoint, &mut seen).await;
    assert_eq!(seen.len(), 3);
    let next = log.append(shard, &readings("p", 3, 9)).await.unwrap();
    assert_eq!(next.positions, undone.positions);
    follow_to_head(log.pool(), shard, &mut checkpoint, &mut seen).await;
    assert_eq!(seen.len(), 9);
}

#[tokio::test]
async fn an_append_of_nothing_is_no_commit() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    for stored in [0, 3] {
        log.append(shard, &readings("p", 0, stored)).await.unwrap();
        let nothing = log.append(shard, &[]).await.unwrap();
        assert!(nothing.positions.is_empty());
        assert_eq!(head(log.pool(), shard).await, stored);
    }
    let commits: i64 =
        sqlx::query_scalar("select count(*) from log_commit").fetch_one(log.pool()).await.unwrap();
    assert_eq!(commits, 1);
}

/// Two writers take turns: each holds the head until the other one waits behind it.
async fn two_writers_with_forced_delays(log: &Log, shard: i16, rounds: i64) {
    let mut before: Option<(oneshot::Sender<()>, tokio::task::JoinHandle<()>)> = None;
    for round in 0..rounds {
        let events = readings("p", round * 10, round * 10 + 1 + round % 4);
        let (locked, commit, task) = held(log, shard, events);
        if let Some((commit, task)) = before.take() {
            somebody_waits_for_a_lock(log.pool()).await;
            commit.send(()).unwrap();
            task.await.unwrap();
        }
        locked.await.unwrap();
        before = Some((commit, task));
    }
    let (commit, task) = before.unwrap();
    commit.send(()).unwrap();
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn position_order_is_commit_order_and_a_follower_sees_everything_once() {
    let database = Database::new().await;
    let log = database.log().await;
    let (pool, shard) = (log.pool().clone(), log.shard_of("ward", "p"));
    let writers = tokio::spawn({
        let log = log.clone();
        async move { two_writers_with_forced_delays(&log, shard, 60).await }
    });
    let (mut checkpoint, mut followed) = (0, Vec::new());
    let mut snapshots: Vec<Vec<i64>> = Vec::new();
    loop {
        let last_round = writers.is_finished();
        let visible = "select position from event where shard = $1 order by position";
        snapshots.push(sqlx::query_scalar(visible).bind(shard).fetch_all(&pool).await.unwrap());
        follow_to_head(&pool, shard, &mut checkpoint, &mut followed).await;
        if last_round {
            break;
        }
    }
    writers.await.unwrap();
    let rows: Vec<(i64, DateTime<Utc>)> = sqlx::query_as(
        "select position, recorded_at from event where shard = $1 order by position",
    )
    .bind(shard)
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(rows.len(), (0..60).map(|round| 1 + round % 4).sum::<usize>());
    assert_eq!(followed, rows.iter().map(|r| r.0).collect::<Vec<_>>());
    assert!(rows.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1));
    // What was visible at any moment was a beginning of what there is in the end: no
    // event ever appeared before one that was already there.
    for visible in &snapshots {
        assert_eq!(visible, &followed[..visible.len()]);
    }
    let partly = snapshots.iter().filter(|s| !s.is_empty() && s.len() < rows.len()).count();
    assert!(partly > 5, "the follower hardly ever looked while the writers were at it: {partly}");
}

#[tokio::test]
async fn recorded_at_hardly_moves_while_the_clock_is_behind_it() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    let before = log.append(shard, &readings("p", 0, 1)).await.unwrap();
    // As if the last append had been made by a clock an hour ahead of today's.
    let ahead = before.recorded_at + TimeDelta::hours(1);
    sqlx::query("update shard_head set recorded_at = $2 where shard = $1")
        .bind(shard)
        .bind(ahead)
        .execute(log.pool())
        .await
        .unwrap();
    // Later all the same: no two appends are of one time.
    for n in 1..4 {
        let after = log.append(shard, &readings("p", n, n + 1)).await.unwrap();
        assert_eq!(after.recorded_at, ahead + TimeDelta::microseconds(n));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_readings_from_many_at_once_are_stored_once() {
    const SENDERS: usize = 12;
    const READINGS: i64 = 40;
    let database = Database::new().await;
    // Two processes, as far as the database can tell.
    let logs = [database.log().await, database.log().await];
    let shard = logs[0].shard_of("ward", "p");
    let senders = (0..SENDERS).map(|n| {
        let log = logs[n % 2].clone();
        // Everybody in another order, in another batch, each batch with a repeat.
        let mut events = readings("p", 0, READINGS);
        events.rotate_left(n * 3);
        for event in &mut events {
            event.value = Some(60.0 + n as f64);
        }
        tokio::spawn(async move {
            let mut stored = 0;
            for batch in events.chunks(7 + n) {
                let twice = [batch, batch].concat();
                stored += log.append(shard, &twice).await.unwrap().stored();
            }
            stored
        })
    });
    let stored: usize = join_all(senders).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(stored, READINGS as usize);
    let (rows, times): (i64, i64) =
        sqlx::query_as("select count(*), count(distinct occurred_at) from event")
            .fetch_one(logs[0].pool())
            .await
            .unwrap();
    assert_eq!((rows, times), (READINGS, READINGS));
    for log in &logs {
        let walk = vitals::log::chain::verify(log.pool(), shard, |_| {}).await.unwrap();
        assert_eq!((walk.events, walk.broken), (READINGS as u64, None));
    }
}

#[tokio::test]
async fn another_device_vital_or_microsecond_is_another_reading() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    let one = reading("p", time("2026-03-01T00:00:00Z"));
    let device = Event { source_id: "patch".into(), ..one.clone() };
    let vital = Event { vital: Some(Vital::Spo2), ..one.clone() };
    let moment = Event { occurred_at: one.occurred_at + TimeDelta::microseconds(1), ..one.clone() };
    let value = Event { value: Some(1.0), ..one.clone() };
    let appended = log.append(shard, &[one, device, vital, moment, value]).await.unwrap();
    let new: Vec<bool> = appended.positions.iter().map(Option::is_some).collect();
    assert_eq!(new, [true, true, true, true, false]);
}

/// As if it had been initialised in 2026, whenever this runs.
pub async fn months_from_2025(pool: &PgPool) {
    sqlx::query("update installation set months_from = 2025").execute(pool).await.unwrap();
}

#[tokio::test]
async fn a_clock_that_runs_wild_makes_a_partition_a_year_at_most() {
    let database = Database::new().await;
    months_from_2025(&database.pool()).await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    let before = partition::attached(log.pool()).await.unwrap().len();
    // Every month from 1970 to the one before the months begin, and some days of each.
    let start = time("1970-01-01T00:00:00Z");
    let wild: Vec<Event> = (0..55 * 52)
        .map(|week| reading("p", start + TimeDelta::weeks(week)))
        .filter(|event| event.occurred_at < time("2025-01-01T00:00:00Z"))
        .collect();
    assert_eq!(log.append(shard, &wild).await.unwrap().stored(), wild.len());
    let spans = partition::attached(log.pool()).await.unwrap();
    assert_eq!(spans.len() - before, 25, "the years 2000 to 2024: {spans:?}");
}

#[tokio::test]
async fn the_present_month_and_the_next_two_are_made_ahead() {
    let database = Database::new().await;
    months_from_2025(&database.pool()).await;
    let log = database.log().await;
    log.ensure_partitions_ahead(time("2030-11-30T23:59:59Z")).await.unwrap();
    let spans = partition::attached(log.pool()).await.unwrap();
    let made: Vec<String> = spans.iter().map(|span| span.to_string()).collect();
    assert_eq!(made, ["2030-11", "2030-12", "2031-01"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn months_are_made_when_needed_by_several_at_once_and_hold_their_borders() {
    const BORDERS: [(&str, &str); 11] = [
        ("1969-12-31T23:59:59.999999Z", "reading_before_2000"),
        ("1990-01-01T00:00:00Z", "reading_before_2000"),
        ("1999-12-31T23:59:59.999999Z", "reading_before_2000"),
        ("2000-01-01T00:00:00Z", "reading_2000"),
        ("2024-02-29T23:59:59.999999Z", "reading_2024"),
        ("2024-12-31T23:59:59.999999Z", "reading_2024"),
        ("2025-01-01T00:00:00Z", "reading_2025_01"),
        ("2030-12-31T23:59:59.999999Z", "reading_2030_12"),
        ("2031-01-01T00:00:00Z", "reading_2031_01"),
        ("2031-01-31T23:59:59.999999Z", "reading_2031_01"),
        ("2031-02-01T00:00:00Z", "reading_2031_02"),
    ];
    let database = Database::new().await;
    months_from_2025(&database.pool()).await;
    let mut senders = Vec::new();
    for n in 0..6 {
        // Each knows its own months only, as processes do.
        let log = database.log().await;
        senders.push(tokio::spawn(async move {
            let patient = format!("p{n}");
            let shard = log.shard_of("ward", &patient);
            let mut events: Vec<Event> =
                BORDERS.iter().map(|(at, _)| reading(&patient, time(at))).collect();
            events.rotate_left(n);
            let appended = log.append(shard, &events).await.unwrap();
            assert_eq!(appended.stored(), BORDERS.len());
        }));
    }
    for sender in senders {
        sender.await.unwrap();
    }
    let log = database.log().await;
    let found: BTreeSet<(DateTime<Utc>, String, i64)> = sqlx::query_as(
        "select occurred_at, tableoid::regclass::text, count(*) from reading group by 1, 2",
    )
    .fetch_all(log.pool())
    .await
    .unwrap()
    .into_iter()
    .collect();
    let expect = BORDERS.iter().map(|(at, table)| (time(at), (*table).to_owned(), 6)).collect();
    assert_eq!(found, expect);
    // And a follower finds them all, wherever in time they lie.
    for shard in log.shards() {
        let (mut checkpoint, mut seen) = (0, Vec::new());
        follow_to_head(log.pool(), shard, &mut checkpoint, &mut seen).await;
        assert_eq!(seen.len() as i64, head(log.pool(), shard).await);
    }
}
