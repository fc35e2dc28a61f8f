//! Months that leave the database, and come back: real processes, real files.
//!
//! What is asked of the present, and of every moment after an archived month, must be
//! the same before, meanwhile and afterwards; what cannot be answered must say so.

pub mod ward;

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgPool};

use self::ward::{Ward, done, readings_of, said};
use crate::hospital::heart_rate;
use crate::log::time;
use crate::support::postgres::caught_up;
use crate::support::server::command;
use crate::support::{cli, eventually, scratch_dir};

const SOON: Duration = Duration::from_secs(60);

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["code"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_leaves_comes_back_and_nothing_is_lost_or_answered_otherwise() {
    let ward = Ward::new().await;
    let (rows, present) = (ward.rows().await, ward.present().await);
    let within = ward.hospital.found("/patients/p1?asOf=2026-01-15T00:00:00Z").await;

    let archived = ward.archive("2026-02").await;
    assert!(archived.contains("2019: 7") && archived.contains("2026-01: 7"), "{archived}");
    assert_eq!(ward.archived().await, ["reading_2019", "reading_2026_01"]);
    let left = ward.rows().await.len();
    assert!(left < rows.len() * 2 / 3, "{left} of {}", rows.len());
    let said = ward.is_sound().await;
    assert!(said.contains("archive of 2026-01: ") && said.contains("of them archived"), "{said}");
    assert_eq!(ward.present().await, present);
    assert!(ward.archive("2026-02").await.contains("no full month"), "twice");

    let rebuilt = done(cli(&ward.database, &["rebuild", "all"]).await);
    assert_eq!(
        rebuilt.matches("equal to the live one").count(),
        vitals::projection::ALL.len(),
        "{rebuilt}"
    );
    ward.is_sound().await;
    assert_eq!(ward.present().await, present);

    assert!(ward.back("event_2026_01").await.contains("rows are back"));
    assert!(ward.back("event_2026_01").await.contains("already here"));
    assert_eq!(ward.hospital.found("/patients/p1?asOf=2026-01-15T00:00:00Z").await, within);
    ward.back("event_2019").await;
    assert_eq!(ward.rows().await, rows);
    assert!(ward.archived().await.is_empty());
    ward.is_sound().await;

    // And once more, over its own files.
    ward.archive("2026-02").await;
    assert_eq!(ward.rows().await.len(), left);
    ward.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reaches_into_an_archived_month_is_told_so() {
    let ward = Ward::new().await;
    let hospital = &ward.hospital;
    let place = sqlx::query_scalar::<_, String>(
        "select (select max(number) from incarnation) || '.' || string_agg('0', '-' order by shard) \
         from shard_head",
    );
    let place = place.fetch_one(&ward.pool).await.unwrap();
    ward.archive("2026-02").await;
    for path in [
        "/patients/p1?asOf=2026-01-15T00:00:00Z",
        "/patients/p1?asOf=2019-07-04T00:00:00Z",
        "/patients/p1?knownAt=2026-06-01T00:00:00Z&asOf=2026-01-31T00:00:00Z",
        "/patients/p1/readings",
        "/patients/p1/readings?from=2026-01-10T00:00:00Z&to=2026-01-11T00:00:00Z",
        "/patients/p1/readings?vital=heart_rate&every=1h&from=2026-01-10T00:00:00Z",
        "/patients/p1/replay?speed=max&from=2026-01-10T00:00:00Z",
    ] {
        let answer = hospital.get(path).await;
        assert_eq!(code(&answer), (410, "month_archived"), "{path}: {}", answer.1);
        let detail = answer.1["detail"].as_str().unwrap();
        assert!(detail.contains("vitals import --format parquet event_20"), "{detail}");
    }
    // Who lies outside of it, or has nothing in it, is answered.
    for path in [
        "/patients/p1?asOf=2026-02-01T00:00:00Z",
        "/patients/p1/readings?from=2026-02-01T00:00:00Z",
        "/patients/p1/readings?from=2026-01-10T00:00:00Z&vital=spo2",
        "/patients/p1/readings?from=2026-01-30T00:00:00Z",
        "/patients/p1?asOf=2018-01-01T00:00:00Z",
        "/alerts?patientId=p1",
    ] {
        hospital.found(path).await;
    }
    let resumed = hospital.request(Method::GET, "/stream").header("last-event-id", &place);
    let resumed = resumed.send().await.unwrap();
    assert_eq!(resumed.status(), 410, "{}", resumed.text().await.unwrap());
    let replay = ["replay", "--patient", "p1", "--tenant", "hospital-1"];
    let output = cli(&ward.database, &replay).await;
    assert!(!output.status.success() && said(&output).contains("is archived"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_one_device_sees_its_newest_as_before() {
    let ward = Ward::new().await;
    let token = ward.server.token_with(|claims| {
        claims["scope"] = "vitals:read".into();
        claims["device"] = "watch-0".into();
    });
    let url = ward.server.url("/api/v1/patients/p3/heart-rate");
    let before = crate::support::http::get(&url, &token).await.json;
    assert_eq!(before["deviceId"], "watch-0");
    let newest = ward.hospital.found("/patients/p3/heart-rate").await;
    assert_ne!(newest["deviceId"], "watch-0", "another device's is newer");
    ward.archive("2026-03").await;
    assert_eq!(crate::support::http::get(&url, &token).await.json, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_readings_are_refused_by_item_and_nothing_is_stored_twice() {
    let ward = Ward::new().await;
    let old = heart_rate("p0", 99.0, time("2026-01-20T00:00:00Z"));
    let again = readings_of("2026-01", "p0").remove(0);
    // Made known to this server only by meeting the thin partition, or by looking.
    ward.archive("2026-02").await;
    let rows = ward.rows().await;
    let answer = eventually("the door to know it", SOON, || async {
        let batch = json!([old, heart_rate("p0", 80.0, time("2026-02-27T00:00:00Z")), again]);
        let (status, body) = ward.hospital.post("/readings", &batch).await;
        assert!([207, 503].contains(&status), "{status} {body}");
        (status == 207).then_some(body)
    })
    .await;
    assert_eq!(answer["stored"], 1, "{answer}");
    let rejected = answer["rejected"].as_array().unwrap();
    let codes: Vec<_> = rejected.iter().map(|r| (&r["index"], &r["code"])).collect();
    let refused = &json!("month_archived");
    assert_eq!(codes, [(&json!(0), refused), (&json!(2), refused)]);
    assert_eq!(rejected[0]["pointer"], "/0/measuredAt");
    assert!(rejected[0]["detail"].as_str().unwrap().contains("event_2026_01.parquet"));
    let (status, body) = ward.hospital.post("/readings", &again).await;
    assert_eq!((status, &body["code"]), (422, refused));
    assert_eq!(ward.rows().await.len(), rows.len() + 1, "one of February");

    // When it is back, the door opens again, and knows the duplicate.
    ward.back("event_2026_01").await;
    eventually("the door to open", SOON, || async {
        let (status, body) = ward.hospital.post("/readings", &json!([again, old])).await;
        (status == 201)
            .then(|| assert_eq!((&body["stored"], &body["duplicates"]), (&json!(1), &json!(1))))
    })
    .await;
    ward.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_comes_back_between_readings_of_another_one_that_stays_archived() {
    let ward = Ward::new().await;
    let late = readings_of("2019-09", "p0");
    ward.hospital.store(&late).await;
    caught_up(&ward.pool).await;
    let rows = ward.rows().await;
    ward.archive("2026-02").await;
    // The file of 2019 begins before January's positions and ends after them.
    ward.back("event_2026_01").await;
    assert_eq!(ward.archived().await, ["reading_2019"]);
    ward.is_sound().await;
    ward.back("event_2019").await;
    assert_eq!(ward.rows().await, rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_archived_is_refused_with_the_reason() {
    let ward = Ward::new().await;
    let to = ward.to.to_str().unwrap().to_owned();
    let refused = |arguments: Vec<String>| {
        let database = &ward.database;
        async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let output = cli(database, &arguments).await;
            assert!(!output.status.success(), "{output:?}");
            said(&output)
        }
    };
    let archive =
        |before: &str| ["archive", "--before", before, "--to", &to].map(str::to_owned).to_vec();
    assert!(refused(archive("2999-01")).await.contains("is the latest that can be named"));
    assert!(refused(archive("soon")).await.contains("is no month"));
    let file = ward.file("event_2026_01");
    std::fs::write(&file, "a holiday picture").unwrap();
    assert!(refused(archive("2026-02")).await.contains("not ours to overwrite"));
    std::fs::remove_file(&file).unwrap();

    // Another installation's file neither comes in nor is overwritten.
    ward.archive("2026-02").await;
    let other = Ward::new().await;
    let import = ["import", "--format", "parquet", file.to_str().unwrap()];
    let output = cli(&other.database, &import).await;
    assert!(
        !output.status.success() && said(&output).contains("of the installation"),
        "{output:?}"
    );
    let output = cli(&other.database, &["archive", "--before", "2026-02", "--to", &to]).await;
    assert!(!output.status.success() && said(&output).contains("not ours"), "{output:?}");
    assert!(other.archived().await.is_empty());

    // What the rules have not read yet would be lost on them.
    let Ward { database, server, hospital, pool, .. } = other;
    sqlx::query("update checkpoint set position = 0 where consumer = 'rules'")
        .execute(&pool)
        .await
        .unwrap();
    drop((server, hospital));
    let to = scratch_dir();
    let output =
        cli(&database, &["archive", "--before", "2026-02", "--to", to.to_str().unwrap()]).await;
    assert!(
        !output.status.success() && said(&output).contains("let vitals serve run"),
        "{output:?}"
    );
}

/// Starts the command, and kills it when the time has come.
async fn kill_when(ward: &Ward, arguments: &[&str], when: impl AsyncFn() -> bool) {
    let mut command = command(&scratch_dir(), Some(&ward.database.url));
    let mut child = command.args(arguments).spawn().unwrap();
    while child.try_wait().unwrap().is_none() && !when().await {
        tokio::task::yield_now().await;
    }
    let _ended_before = child.start_kill();
    child.wait().await.unwrap();
}

async fn table_is_there(pool: &PgPool, table: &str) -> bool {
    let sql = "select to_regclass($1) is not null";
    sqlx::query_scalar(sql).bind(table).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_anywhere_the_month_is_full_or_archived_and_the_next_run_finishes() {
    let ward = Ward::new().await;
    let rows = ward.rows().await;
    let to = ward.to.to_str().unwrap().to_owned();
    let archive = ["archive", "--before", "2026-02", "--to", &to];
    let file = ward.file("event_2026_01");
    let import = ["import", "--format", "parquet", file.to_str().unwrap()];
    let whole_or_archived = async || {
        let (archived, now) = (ward.archived().await, ward.rows().await);
        let has = |name: &str| archived.contains(&format!("reading_{name}"));
        let of = |rows: &[String], year: &str| rows.iter().filter(|r| r.contains(year)).count();
        for (name, year) in [("2019", "\"2019-07"), ("2026_01", "\"2026-01")] {
            let full = of(&now, year) == of(&rows, year);
            assert_ne!(full, has(name), "{name}");
            assert!(
                !has(name) || ward.file(&format!("event_{name}")).exists(),
                "{name} without its file"
            );
        }
    };
    // The month and what is known of it change together, or not at all.
    let mut held = ward.pool.begin().await.unwrap();
    sqlx::query("lock table archived_month in share mode").execute(&mut *held).await.unwrap();
    let waits = async || -> bool {
        let waits = "select exists (select from pg_locks \
                     where relation = 'archived_month'::regclass and not granted)";
        sqlx::query_scalar(waits).fetch_one(&ward.pool).await.unwrap()
    };
    kill_when(&ward, &archive, waits).await;
    held.rollback().await.unwrap();
    whole_or_archived().await;
    // As soon as a state is seen, and at odd times.
    let tables = ["thin_reading_2019", "thin_reading_2026_01", "gone_reading_2019"];
    for table in tables {
        kill_when(&ward, &archive, async || table_is_there(&ward.pool, table).await).await;
        whole_or_archived().await;
    }
    kill_when(&ward, &archive, async || file.exists()).await;
    whole_or_archived().await;
    for delay_ms in (20..400).step_by(35) {
        let started = Instant::now();
        let late = async || started.elapsed() > Duration::from_millis(delay_ms);
        kill_when(&ward, &archive, late).await;
        whole_or_archived().await;
        if !ward.archived().await.is_empty() && delay_ms % 2 == 0 {
            let output = cli(&ward.database, &import).await;
            assert!(output.status.success() || !file.exists(), "{output:?}");
        }
    }
    ward.archive("2026-02").await;
    assert_eq!(ward.archived().await.len(), 2);
    ward.is_sound().await;

    for table in ["full_reading_2026_01", "gone_reading_2026_01"] {
        kill_when(&ward, &import, async || table_is_there(&ward.pool, table).await).await;
        whole_or_archived().await;
    }
    for delay_ms in (20..400).step_by(60) {
        let started = Instant::now();
        let late = async || started.elapsed() > Duration::from_millis(delay_ms);
        kill_when(&ward, &import, late).await;
        whole_or_archived().await;
    }
    ward.back("event_2026_01").await;
    ward.back("event_2019").await;
    assert_eq!(ward.rows().await, rows);
    for table in
        ["thin_reading_2019", "full_reading_2026_01", "gone_reading_2026_01", "gone_reading_2019"]
    {
        assert!(!table_is_there(&ward.pool, table).await, "{table} was left");
    }
    ward.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_go_on_while_the_archive_waits_for_its_lock_also_into_its_month() {
    const STALL_MAX: Duration = Duration::from_secs(2);
    let ward = Ward::new().await;
    // Somebody who reads for long.
    let mut reader = sqlx::PgConnection::connect(&ward.database.url).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    let _rows: i64 =
        sqlx::query_scalar("select count(*) from event").fetch_one(&mut *reading).await.unwrap();
    let to = ward.to.to_str().unwrap().to_owned();
    let (url, dir) = (ward.database.url.clone(), scratch_dir());
    let archiving = tokio::spawn(async move {
        let mut command = command(&dir, Some(&url));
        command.args(["archive", "--before", "2026-02", "--to", &to]).output().await.unwrap()
    });
    eventually("the file", SOON, || async { ward.file("event_2019").exists().then_some(()) }).await;
    let (mut worst, started) = (Duration::ZERO, Instant::now());
    while started.elapsed() < Duration::from_secs(4) {
        let began = Instant::now();
        ward.hospital.measure("p0", 72.0).await;
        ward.hospital.found("/patients/p2/heart-rate").await;
        worst = worst.max(began.elapsed());
    }
    assert!(worst < STALL_MAX, "an append and a question took {worst:?}");
    // Into the month whose copy is finished: it is copied anew.
    let late = heart_rate("p4", 88.0, time("2019-07-31T12:00:00Z"));
    ward.hospital.store(&[late]).await;
    let rows = ward.rows().await;
    assert!(!archiving.is_finished() && ward.archived().await.is_empty());
    reading.rollback().await.unwrap();
    let output = archiving.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(ward.archived().await.len(), 2);
    caught_up(&ward.pool).await;
    ward.is_sound().await;
    ward.back("event_2019").await;
    ward.back("event_2026_01").await;
    assert_eq!(ward.rows().await, rows);
}
