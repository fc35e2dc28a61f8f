//! Rebuilding beside the living, and a check that finds what is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vitals::consumer;
use vitals::event::{ALERT_ACKNOWLEDGED, Event, PATIENT_REGISTERED};
use vitals::log::Log;
use vitals::projection::{self, Apply, Difference};

use crate::log::{reading, time};
use crate::support::eventually;
use crate::support::postgres::{Database, caught_up};

const SOON: Duration = Duration::from_secs(30);

/// What is no reading, about a patient.
fn non_reading(patient: &str, kind: &str, at: DateTime<Utc>, data: serde_json::Value) -> Event {
    Event {
        kind: kind.to_owned(),
        vital: None,
        value: None,
        data: Some(data.to_string()),
        ..reading(patient, at)
    }
}

/// Round `n` of a patient's life: readings, and an alert that is raised, cleared
/// and answered in different rounds.
fn round(patient: &str, n: i64) -> Vec<Event> {
    let at = time("2026-03-01T00:00:00Z") + TimeDelta::seconds(n);
    let alert = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{patient}/{}", n / 4).as_bytes());
    let mut events: Vec<Event> =
        (0..10).map(|ms| reading(patient, at - TimeDelta::milliseconds(ms * 7 % 10))).collect();
    let data = |state: &str| {
        json!({
            "v": 1, "alertId": alert, "state": state, "rule": "r", "ruleVersion": 1,
            "event": "HIGH_HEART_RATE", "priority": "high", "vital": "heart_rate", "value": 130,
            "unit": "/min", "measuredAt": at, "deviceId": "watch", "readingPosition": 1, "since": at,
        })
    };
    events.push(match n % 4 {
        0 => non_reading(patient, "HIGH_HEART_RATE", at, data("raised")),
        1 => {
            let by = json!({ "by": "nurse", "at": at, "note": null });
            let data =
                json!({ "v": 1, "alertId": alert, "state": "acknowledged", "acknowledged": by });
            non_reading(patient, ALERT_ACKNOWLEDGED, at, data)
        }
        2 => non_reading(patient, "HIGH_HEART_RATE", at, data("cleared")),
        _ => {
            non_reading(patient, PATIENT_REGISTERED, at, json!({ "v": 1, "ward": format!("w{n}") }))
        }
    });
    events
}

async fn differences(log: &Log) -> Vec<(&'static str, Difference)> {
    let mut found = Vec::new();
    for projection in &projection::ALL {
        for shard in log.shards() {
            let (_, differing) = projection::check(log.pool(), projection, shard).await.unwrap();
            found.extend(differing.into_iter().map(|d| (projection.name, d)));
        }
    }
    found
}

/// The workers of every projection, as `serve` runs them.
fn follow(log: &Log, stop: &CancellationToken) -> JoinSet<()> {
    let (mut workers, turns) = (JoinSet::new(), Arc::new(Semaphore::new(1)));
    for projection in &projection::ALL {
        for shard in log.shards() {
            let (log, pool, turns) = (log.clone(), log.pool().clone(), Some(turns.clone()));
            let apply = Arc::new(Apply(projection));
            workers.spawn(consumer::run(log, pool, apply, shard, turns, stop.clone()));
        }
    }
    workers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_equals_the_live_tables_while_events_are_appended_and_read() {
    let database = Database::new().await;
    let log = database.log().await;
    // A past that is worth folding beside the living, and not only under the swap.
    for patient in ["a", "b", "c", "d", "e"] {
        let at = |n| time("2026-02-01T00:00:00Z") + TimeDelta::seconds(n);
        let past: Vec<Event> = (0..2_000).map(|n| reading(patient, at(n))).collect();
        log.append(log.shard_of("ward", patient), &past).await.unwrap();
    }
    let stop = CancellationToken::new();
    let workers = follow(&log, &stop);
    let enough = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (log, enough) = (log.clone(), enough.clone());
        async move {
            let mut n = 0;
            while !enough.load(Ordering::Relaxed) {
                for patient in ["a", "b", "c", "d", "e"] {
                    let shard = log.shard_of("ward", patient);
                    log.append(shard, &round(patient, n)).await.unwrap();
                }
                n += 1;
            }
            n
        }
    });
    // Whoever reads meanwhile never finds an empty or a missing table.
    let reader = tokio::spawn({
        let (log, enough) = (log.clone(), enough.clone());
        async move {
            let mut most = 0;
            while !enough.load(Ordering::Relaxed) {
                let sql = "select count(*) from current_vitals join patient using (shard, tenant, patient_id)";
                let rows: i64 = sqlx::query_scalar(sql).fetch_one(log.pool()).await.unwrap();
                assert!(rows >= most, "{rows} rows where there were {most}");
                most = rows;
            }
            most
        }
    });
    eventually("every patient's first round", SOON, || async {
        let sql = "select count(distinct patient_id) from event";
        let patients: i64 = sqlx::query_scalar(sql).fetch_one(log.pool()).await.unwrap();
        (patients == 5).then_some(())
    })
    .await;
    let mut before = [0; projection::ALL.len()];
    for n in (0..projection::ALL.len()).collect::<Vec<_>>().repeat(2) {
        let projection = &projection::ALL[n];
        let live = eventually("the live tables to have gone on", SOON, || async {
            let lag = "select sum(position)::bigint from checkpoint where consumer = $1";
            let live: i64 = sqlx::query_scalar(lag)
                .bind(projection.consumer)
                .fetch_one(log.pool())
                .await
                .unwrap();
            (live > before[n]).then_some(live)
        })
        .await;
        let rebuilt = projection::rebuild(&log, projection, |_, _| {}).await.unwrap();
        assert_eq!(rebuilt.differing, Some(0), "{}", projection.name);
        assert!(rebuilt.positions >= live, "{} where {live} were live", rebuilt.positions);
        before[n] = rebuilt.positions;
    }
    enough.store(true, Ordering::Relaxed);
    assert_eq!(reader.await.unwrap(), 5);
    assert!(writer.await.unwrap() > 9);
    caught_up(log.pool()).await;
    assert_eq!(differences(&log).await, []);
    stop.cancel();
    workers.join_all().await;
}

/// A small log, folded.
async fn folded(database: &Database) -> Log {
    let log = database.log().await;
    for n in 0..8 {
        for patient in ["a", "b"] {
            log.append(log.shard_of("ward", patient), &round(patient, n)).await.unwrap();
        }
    }
    for projection in &projection::ALL {
        for shard in log.shards() {
            while consumer::step(log.pool(), &Apply(projection), shard).await.unwrap()
                != consumer::StepResult::Idle
            {}
        }
    }
    log
}

#[tokio::test]
async fn the_check_finds_a_row_that_was_altered_removed_or_added_and_a_rebuild_mends_it() {
    let database = Database::new().await;
    let log = folded(&database).await;
    assert_eq!(differences(&log).await, []);
    for (name, deed) in [
        ("current_vitals", "update current_vitals set value = value + 0.1 where patient_id = 'a'"),
        ("current_vitals", "update current_vitals set source_id = 'x' where patient_id = 'a'"),
        ("current_vitals", "update current_vitals set suspect = true where patient_id = 'a'"),
        ("current_vitals", "delete from current_vitals where patient_id = 'a'"),
        (
            "current_vitals",
            "insert into current_vitals select shard, 'ghost', patient_id, vital, value, quality, \
             suspect, occurred_at, recorded_at, source_id, position \
             from current_vitals where patient_id = 'a'",
        ),
        (
            "alert",
            "update alert set state = 'active' where id = (select min(id::text)::uuid from alert)",
        ),
        (
            "alert",
            "update alert set acknowledged = null where id = (select min(id::text)::uuid from alert)",
        ),
        ("alert", "delete from alert where id = (select min(id::text)::uuid from alert)"),
        ("current_vitals", "update patient set ward = 'w99' where patient_id = 'b'"),
        ("current_vitals", "delete from patient where patient_id = 'b'"),
        (
            "rollup",
            "update series_minute set max = max + 1 where series = (select min(series) from series s where s.patient_id = 'a' and s.shard = series_minute.shard) and start = '2026-03-01T00:00Z'",
        ),
        (
            "rollup",
            "update series_hour set sum_millionths = 0 where series = (select min(series) from series s where s.patient_id = 'a' and s.shard = series_hour.shard) and start = '2026-03-01T00:00Z'",
        ),
        (
            "rollup",
            "update device_hour set minutes = 1 << 30 where patient_id = 'a' and start = '2026-03-01T00:00Z'",
        ),
        ("rollup", "delete from device where patient_id = 'a'"),
    ] {
        let done = sqlx::raw_sql(AssertSqlSafe(deed)).execute(log.pool()).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{deed}");
        let found = differences(&log).await;
        assert_eq!(found.len(), 1, "{deed}: {found:?}");
        assert_eq!(found[0].0, name, "{deed}");
        let rebuilt =
            projection::rebuild(&log, projection::named(name).unwrap(), |_, _| {}).await.unwrap();
        assert!(rebuilt.differing.unwrap() > 0, "{deed}");
        assert_eq!(differences(&log).await, [], "{deed}");
    }
}

#[tokio::test]
async fn the_check_compares_at_the_checkpoint_and_not_at_the_head() {
    let database = Database::new().await;
    let log = folded(&database).await;
    log.append(log.shard_of("ward", "a"), &round("a", 8)).await.unwrap();
    assert_eq!(differences(&log).await, []);
    // A checkpoint that ran ahead of its table.
    sqlx::query(
        "update checkpoint c set position = h.position from shard_head h where h.shard = c.shard",
    )
    .execute(log.pool())
    .await
    .unwrap();
    let mut found: Vec<_> = differences(&log).await.into_iter().map(|(name, _)| name).collect();
    found.dedup();
    assert_eq!(found, ["alert", "current_vitals", "rollup", "shadow"]);
}

#[tokio::test]
async fn a_rebuild_reaches_the_head_although_nobody_folds_live() {
    let database = Database::new().await;
    let log = database.log().await;
    for patient in ["a", "b"] {
        log.append(log.shard_of("ward", patient), &round(patient, 0)).await.unwrap();
    }
    for projection in &projection::ALL {
        let rebuilt = projection::rebuild(&log, projection, |_, _| {}).await.unwrap();
        assert_eq!((rebuilt.positions, rebuilt.differing), (22, Some(0)), "{}", projection.name);
    }
    caught_up(log.pool()).await;
    let sql = "select (select count(*) from current_vitals), (select count(*) from alert)";
    let rows: (i64, i64) = sqlx::query_as(sql).fetch_one(log.pool()).await.unwrap();
    assert_eq!(rows, (2, 2));
    assert_eq!(differences(&log).await, []);
}
