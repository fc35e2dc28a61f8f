//! Projections whose SQL has changed, rebuilds that are ended half-way, and the check
//! that goes on all the time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use vitals::consumer::{self, StepResult};
use vitals::event::Event;
use vitals::log::Log;
use vitals::projection::{self, Apply, CURRENT_VITALS, Projection, RebuildError, SNAPSHOT};

use crate::hospital::{Hospital, now};
use crate::log::{reading, time};
use crate::support::postgres::{Database, caught_up};
use crate::support::server::Server;
use crate::support::{cli, data, eventually, scratch_dir};

const SOON: Duration = Duration::from_secs(30);
/// Of every shard, some.
const PATIENTS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

async fn past(log: &Log, from: i64, to: i64) {
    for patient in PATIENTS {
        let at = |n| time("2026-02-01T00:00:00Z") + TimeDelta::seconds(n);
        let events: Vec<Event> = (from..to).map(|n| reading(patient, at(n))).collect();
        log.append(log.shard_of("ward", patient), &events).await.unwrap();
    }
}

async fn fold(log: &Log, projection: &'static Projection) {
    for shard in log.shards() {
        while consumer::step(log.pool(), &Apply(projection), shard).await.unwrap()
            != StepResult::Idle
        {}
    }
}

async fn is_right(log: &Log, projection: &'static Projection) -> bool {
    let mut differing = 0;
    for shard in log.shards() {
        differing += projection::check(log.pool(), projection, shard).await.unwrap().1.len();
    }
    differing == 0
}

/// As if these tables had been made by a fold that leaves out suspect readings.
async fn by_another_text(log: &Log) {
    let sql = "update projection set sql_hash = 'another', \
                   apply_sql = replace(apply_sql, 'rested(position)', 'rested(position) and not suspect') \
               where name = 'current_vitals'";
    sqlx::raw_sql(sql).execute(log.pool()).await.unwrap();
}

async fn count(log: &Log, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(log.pool()).await.unwrap()
}

#[tokio::test]
async fn until_it_is_rebuilt_a_table_is_folded_by_the_text_that_made_it() {
    let database = Database::new().await;
    let log = database.log().await;
    by_another_text(&log).await;
    past(&log, 0, 10).await;
    let at = time("2026-02-02T00:00:00Z");
    let suspect = Event { suspect: true, value: Some(1.0), ..reading("a", at) };
    log.append(log.shard_of("ward", "a"), &[suspect]).await.unwrap();
    fold(&log, &CURRENT_VITALS).await;
    let suspects = "select count(*) from current_vitals where suspect";
    assert_eq!((count(&log, suspects).await, is_right(&log, &CURRENT_VITALS).await), (0, false));
    projection::renew(&log).await.unwrap();
    assert_eq!((count(&log, suspects).await, is_right(&log, &CURRENT_VITALS).await), (1, true));
    let renewed = "select count(*) from projection where sql_hash = 'another'";
    assert_eq!(count(&log, renewed).await, 0);
}

#[tokio::test]
async fn a_server_serves_the_old_tables_while_it_makes_the_new_ones() {
    let database = Database::new().await;
    let log = database.log().await;
    past(&log, 0, 1_000).await;
    fold(&log, &CURRENT_VITALS).await;
    by_another_text(&log).await;
    // The rebuild waits for whoever holds its lock, and the server does not.
    let mut held = log.pool().acquire().await.unwrap();
    let lock = "select pg_advisory_lock(hashtext('projection:current_vitals'))";
    sqlx::raw_sql(lock).execute(&mut *held).await.unwrap();
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    assert_eq!(hospital.found("/patients/a/heart-rate").await["heartRate"], 60);
    hospital.measure("a", 77.0).await;
    assert_eq!(hospital.found("/patients/a/heart-rate").await["heartRate"], 77);
    let old = "select count(*) from projection where sql_hash = 'another'";
    assert_eq!(count(&log, old).await, 1);
    held.close().await.unwrap();
    eventually("the projection to be renewed", SOON, || async {
        (count(&log, old).await == 0).then_some(())
    })
    .await;
    assert_eq!(hospital.found("/patients/a/heart-rate").await["heartRate"], 77);
}

#[tokio::test]
async fn a_rebuild_that_died_is_taken_up_where_it_was() {
    let database = Database::new().await;
    let log = database.log().await;
    past(&log, 0, 2_000).await;
    fold(&log, &CURRENT_VITALS).await;
    let died = tokio::spawn({
        let log = log.clone();
        async move {
            projection::rebuild(&log, &CURRENT_VITALS, |_, _| {
                panic!("killed after the first window, as the test wants it")
            })
            .await
        }
    });
    assert!(died.await.unwrap_err().is_panic());
    let left = "select coalesce(sum(position), 0)::bigint from rebuilding";
    let left = count(&log, left).await;
    assert!(left > 0, "{left}");
    past(&log, 2_000, 2_010).await;
    let rebuilt = eventually("the dead rebuild's lock to go", SOON, || async {
        projection::rebuild(&log, &CURRENT_VITALS, |_, _| {}).await.ok()
    })
    .await;
    assert_eq!(rebuilt.differing, Some(0));
    assert_eq!(rebuilt.positions, 2_010 * 12);
    assert!(rebuilt.folded <= rebuilt.positions - left, "{rebuilt:?}, {left} were folded before");
    assert!(is_right(&log, &CURRENT_VITALS).await);
    assert_eq!(count(&log, "select count(*) from rebuilding").await, 0);
}

#[tokio::test]
async fn a_comparison_says_what_differs_and_changes_nothing() {
    let database = Database::new().await;
    let log = database.log().await;
    past(&log, 0, 10).await;
    projection::catch_up(&log).await.unwrap();
    let equal = cli(&database, &["rebuild", "all", "--check-only"]).await;
    let said = String::from_utf8(equal.stdout).unwrap();
    assert!(equal.status.success(), "{said}");
    assert_eq!(said.matches("equal to the live one").count(), projection::ALL.len(), "{said}");
    let altered = "update current_vitals set value = 1 where patient_id = 'b'";
    sqlx::raw_sql(altered).execute(log.pool()).await.unwrap();
    for _ in 0..2 {
        let differing = cli(&database, &["rebuild", "all", "--check-only"]).await;
        let said = String::from_utf8(differing.stdout).unwrap();
        assert!(!differing.status.success() && said.contains("current_vitals"), "{said}");
        assert_eq!(said.matches("DIFFERS: 2 rows").count(), 1, "{said}");
    }
    let schemas = "select count(*) from pg_namespace where nspname like 'rebuild%'";
    assert_eq!(count(&log, schemas).await, 0);
}

#[tokio::test]
async fn the_self_check_comes_to_every_patient_and_sees_when_one_is_right_again() {
    let database = Database::new().await;
    let log = database.log().await;
    past(&log, 0, 10).await;
    projection::catch_up(&log).await.unwrap();
    let alter = |by: f64, patient: &'static str| {
        let log = log.clone();
        async move {
            let sql = "update current_vitals set value = value + $1 where patient_id = $2";
            sqlx::query(sql).bind(by).bind(patient).execute(log.pool()).await.unwrap();
        }
    };
    for patient in PATIENTS {
        alter(1.0, patient).await;
        let shard = log.shard_of("ward", patient);
        let mut found = Vec::new();
        // Twelve patients at most, some at a time, and one turn in which it begins anew.
        for _ in 0..6 {
            found.extend(projection::check_some(log.pool(), &CURRENT_VITALS, shard).await.unwrap());
        }
        assert!(!found.is_empty(), "{patient} was not looked at");
        assert!(found.iter().all(|d| d.key == format!("ward/{patient}/heart_rate")), "{found:?}");
        let drifting = projection::drifting(log.pool()).await.unwrap();
        assert_eq!(drifting, [("current_vitals".to_owned(), 1)]);
        alter(-1.0, patient).await;
        for _ in 0..6 {
            projection::check_some(log.pool(), &CURRENT_VITALS, shard).await.unwrap();
        }
        assert_eq!(projection::drifting(log.pool()).await.unwrap(), []);
    }
}

#[tokio::test]
async fn drift_is_a_warning_and_a_metric_and_named_in_the_log() {
    let database = Database::new().await;
    let options = ["--self-check-pause", "10ms"];
    let server = Server::start_with(&database, &options).await;
    let hospital = Hospital::new(&server, "h");
    hospital.measure("p77", 80.0).await;
    hospital.found("/patients/p77/heart-rate").await;
    let altered = "update current_vitals set recorded_at = now() where patient_id = 'p77'";
    sqlx::raw_sql(altered).execute(&database.pool()).await.unwrap();
    let ready = async || -> serde_json::Value {
        let ready = reqwest::get(server.url("/health/ready")).await.unwrap();
        assert_eq!(ready.status(), 200);
        ready.json().await.unwrap()
    };
    eventually("the warning", SOON, || async {
        ready().await["warnings"]
            .to_string()
            .contains("vitals rebuild current_vitals")
            .then_some(())
    })
    .await;
    let metrics = reqwest::get(server.url("/metrics")).await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains("vitals_drifting_patients{projection=\"current_vitals\"} 1"),
        "{metrics}"
    );
    assert!(server.logged().contains("p77"), "{}", server.logged());
    let rebuilt = cli(&database, &["rebuild", "current_vitals"]).await;
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    eventually("the warning to go", SOON, || async {
        ready().await["warnings"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    // Later readings are folded as ever.
    let at = now();
    hospital.measure("p77", 81.0).await;
    assert!(
        hospital.found("/patients/p77/heart-rate").await["timestamp"].as_str().is_some(),
        "{at}"
    );
}

/// The beginning of a recording, as a file, and how many patients are in it.
fn icu_of(dir: &Path) -> (PathBuf, usize) {
    let whole = data("icu-vitals-physionet2012/vitals_200.csv");
    let whole = std::fs::read_to_string(whole).unwrap();
    let lines: Vec<&str> = whole.lines().take(15_000).collect();
    let patients: BTreeSet<&str> =
        lines[1..].iter().filter_map(|line| line.split(',').next()).collect();
    let file = dir.join("icu.csv");
    std::fs::write(&file, lines.join("\n")).unwrap();
    (file, patients.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recordings_of_an_icu_are_rebuilt_while_readings_come_in_and_a_reader_polls() {
    let database = Database::new().await;
    let (file, patients) = icu_of(&scratch_dir());
    let import = ["import", file.to_str().unwrap(), "--format", "icu-csv", "--tenant", "icu"];
    assert!(cli(&database, &import).await.status.success());
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "icu");
    let before = hospital.found("/patients/132539?asOf=2026-01-03T00:00:00Z").await;
    assert!(before["vitals"]["heart_rate"]["value"].is_number(), "{before}");
    let log = database.log().await;
    caught_up(log.pool()).await;
    let enough = Arc::new(AtomicBool::new(false));
    let sender = tokio::spawn({
        let (hospital, enough) = (hospital.clone(), enough.clone());
        async move {
            let mut n: u32 = 0;
            while !enough.load(Ordering::Relaxed) {
                // What was acknowledged is what is read next, whatever is swapped meanwhile.
                hospital.measure("newcomer", f64::from(n % 40 + 60)).await;
                eventually("what was acknowledged to be read", SOON, || async {
                    let rate = hospital.found("/patients/newcomer/heart-rate").await;
                    (rate["heartRate"] == n % 40 + 60).then_some(())
                })
                .await;
                n += 1;
            }
            n
        }
    });
    let reader = tokio::spawn({
        let (hospital, enough) = (hospital.clone(), enough.clone());
        async move {
            let mut n = 0;
            while !enough.load(Ordering::Relaxed) {
                let now = hospital.found("/patients/132539").await;
                for vital in before["vitals"].as_object().unwrap().keys() {
                    let (then, now) = (&before["vitals"][vital], &now["vitals"][vital]);
                    assert_eq!(
                        (&then["value"], &then["measuredAt"]),
                        (&now["value"], &now["measuredAt"])
                    );
                }
                let listed = hospital.found("/patients?limit=500").await;
                let listed = listed["items"].as_array().unwrap().iter();
                let recorded = listed.filter(|item| item["patientId"] != "newcomer").count();
                assert_eq!(recorded, patients);
                n += 1;
            }
            n
        }
    });
    for _ in 0..2 {
        let rebuilt = cli(&database, &["rebuild", "all"]).await;
        let said = String::from_utf8(rebuilt.stdout).unwrap();
        let why = String::from_utf8_lossy(&rebuilt.stderr);
        assert!(rebuilt.status.success(), "{said}{why}");
        assert_eq!(said.matches("equal to the live one").count(), projection::ALL.len(), "{said}");
    }
    enough.store(true, Ordering::Relaxed);
    assert!(sender.await.unwrap() > 0 && reader.await.unwrap() > 0);
    projection::catch_up(&log).await.unwrap();
    for projection in &projection::ALL {
        assert!(is_right(&log, projection).await, "{}", projection.name);
    }
}

/// Waits until a rebuild waits for whoever looks at its tables.
async fn a_lock_is_waited_for(log: &Log) {
    let waiting = "select count(*) from pg_locks where not granted \
                   and database = (select oid from pg_database where datname = current_database())";
    eventually("a lock to be waited for", SOON, || async {
        (count(log, waiting).await > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_looks_at_two_tables_while_they_are_swapped_sees_both_and_is_not_deadlocked() {
    let database = Database::new().await;
    let log = database.log().await;
    past(&log, 0, 10).await;
    fold(&log, &CURRENT_VITALS).await;
    let mut look = projection::begin_snapshot(log.pool(), SNAPSHOT, &["patient", "current_vitals"])
        .await
        .unwrap();
    let mut patients = async |sql: &'static str| -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut *look).await.unwrap()
    };
    // The later one first: a swap takes them by name.
    assert_eq!(patients("select count(*) from patient").await, PATIENTS.len() as i64);
    let rebuilding = tokio::spawn({
        let log = log.clone();
        async move { projection::rebuild(&log, &CURRENT_VITALS, |_, _| {}).await }
    });
    a_lock_is_waited_for(&log).await;
    assert_eq!(patients("select count(*) from current_vitals").await, PATIENTS.len() as i64);
    look.rollback().await.unwrap();
    assert_eq!(rebuilding.await.unwrap().unwrap().differing, Some(0));
    assert_eq!(count(&log, "select count(*) from current_vitals").await, PATIENTS.len() as i64);
}

#[tokio::test]
async fn a_swap_waits_for_a_long_look_for_a_bounded_time_and_goes_on_later() {
    let database = Database::new().await;
    let log = database.log().await;
    past(&log, 0, 10).await;
    fold(&log, &CURRENT_VITALS).await;
    let look = projection::begin_snapshot(log.pool(), SNAPSHOT, &["patient"]).await.unwrap();
    let given_up = projection::rebuild(&log, &CURRENT_VITALS, |_, _| {}).await;
    assert!(matches!(given_up, Err(RebuildError::InUse("current_vitals"))), "{given_up:?}");
    // The fold goes on meanwhile, and so does the next rebuild.
    past(&log, 10, 12).await;
    fold(&log, &CURRENT_VITALS).await;
    look.rollback().await.unwrap();
    let rebuilt = projection::rebuild(&log, &CURRENT_VITALS, |_, _| {}).await.unwrap();
    assert_eq!((rebuilt.differing, rebuilt.folded), (Some(0), 2 * PATIENTS.len() as i64));
    assert!(is_right(&log, &CURRENT_VITALS).await);
}
