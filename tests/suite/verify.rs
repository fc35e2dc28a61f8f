//! `vitals verify` and `vitals rebuild` from a terminal: what was changed behind the
//! program's back is found, named, and mended where it can be.

use std::process::Output;

use sqlx::{AssertSqlSafe, PgPool};

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::cli;
use crate::support::postgres::{Database, caught_up};
use crate::support::server::Server;

/// A database with a little of everything, and nobody at work on it: one patient, so
/// one shard; each reading is a commit of its own.
async fn night_shift() -> (Database, PgPool) {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    for i in 0..12 {
        hospital.measure("101", 80.0 + f64::from(i)).await;
    }
    let registered = hospital.request(reqwest::Method::PUT, "/patients/101");
    let registered = registered.json(&serde_json::json!({ "ward": "4B" })).send().await.unwrap();
    assert_eq!(registered.status(), 200);
    let pool = database.pool();
    caught_up(&pool).await;
    assert!(server.terminate().await.0.success());
    (database, pool)
}

async fn run(pool: &PgPool, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.expect("SQL");
    assert!(done.rows_affected() > 0, "nothing was changed by {sql}");
}

async fn verify(database: &Database) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = cli(database, &["verify"]).await;
    let said = String::from_utf8(stdout).expect("text") + &String::from_utf8_lossy(&stderr);
    (status.code(), said)
}

/// The position of the nth reading, and its shard.
async fn place(pool: &PgPool, nth: i64) -> (i16, i64) {
    sqlx::query_as(
        "select shard, position from event where type = 'reading' order by position offset $1 limit 1",
    )
    .bind(nth)
    .fetch_one(pool)
    .await
    .expect("a reading")
}

/// What is said about the chain of a shard, as words.
fn about(said: &str, shard: i16) -> Vec<&str> {
    let of_shard = format!("chain of shard {shard}:");
    let line =
        said.lines().find(|line| line.contains(&of_shard)).unwrap_or_else(|| panic!("{said}"));
    line.split(|c: char| !c.is_ascii_alphanumeric()).collect()
}

#[tokio::test]
async fn what_nobody_touched_is_verified() {
    let (database, _pool) = night_shift().await;
    let (code, said) = verify(&database).await;
    assert_eq!(code, Some(0), "{said}");
    for projection in ["current_vitals", "alert", "rollup"] {
        assert!(said.contains(projection), "{said}");
    }
}

#[tokio::test]
async fn the_first_event_that_was_altered_is_named() {
    let alterations = [
        "update reading set value = value + 1",
        "update reading set series = series + 1000",
        "update reading set occurred_at = occurred_at - interval '1 second'",
        "update reading set recorded_at = recorded_at - interval '1 second'",
        "update reading set suspect = true",
        "insert into reading_context select shard, position, '{\"x\": 1}' from reading",
        "delete from reading",
    ];
    let (database, pool) = night_shift().await;
    run(&pool, "create table kept as table reading").await;
    // A projection's row may differ as well by then; the chain is what is asked here.
    for alteration in alterations {
        let ((shard, early), (_, late)) = (place(&pool, 4).await, place(&pool, 8).await);
        run(&pool, &format!("{alteration} where position = {late} and shard = {shard}")).await;
        let (code, said) = verify(&database).await;
        assert_eq!(code, Some(1), "{alteration}: {said}");
        assert!(about(&said, shard).contains(&late.to_string().as_str()), "{alteration}: {said}");
        // And when there are two, the first of them.
        run(&pool, &format!("{alteration} where position = {early} and shard = {shard}")).await;
        let (code, said) = verify(&database).await;
        assert_eq!(code, Some(1), "{alteration}: {said}");
        assert!(about(&said, shard).contains(&early.to_string().as_str()), "{alteration}: {said}");
        run(&pool, "truncate reading, reading_context; insert into reading table kept").await;
    }
    let (code, said) = verify(&database).await;
    assert_eq!(code, Some(0), "as it was, it is sound: {said}");
}

#[tokio::test]
async fn a_projections_row_that_was_altered_is_named_and_rebuilt() {
    let alterations = [
        ("current_vitals", "update current_vitals set value = value + 1"),
        (
            "current_vitals",
            "update current_vitals set occurred_at = occurred_at - interval '1 day'",
        ),
        ("current_vitals", "delete from current_vitals"),
        ("current_vitals", "update current_vitals set patient_id = '666'"),
        ("current_vitals", "update patient set ward = '5A'"),
        (
            "current_vitals",
            "insert into patient select shard, tenant, 'ghost', first_seen from patient",
        ),
        (
            "alert",
            "insert into alert (shard, tenant, patient_id, id, state, position) \
                   select shard, tenant, patient_id, gen_random_uuid(), 'active', 1 from patient",
        ),
    ];
    let (database, pool) = night_shift().await;
    for (projection, alteration) in alterations {
        run(&pool, alteration).await;
        let (code, said) = verify(&database).await;
        assert_eq!(code, Some(1), "{alteration}: {said}");
        let named = format!("projection {projection}:");
        let line = said.lines().find(|line| line.contains(&named)).unwrap_or_default();
        assert!(line.contains("position"), "{alteration}: {said}");

        let rebuilt = cli(&database, &["rebuild", projection]).await;
        assert!(rebuilt.status.success(), "{rebuilt:?}");
        assert!(String::from_utf8_lossy(&rebuilt.stdout).contains(projection), "{rebuilt:?}");
        let (code, said) = verify(&database).await;
        assert_eq!(code, Some(0), "{alteration}: {said}");
    }
    // One of each, mended by one command, and what was asked is answered as before.
    for wrong in [2, 4, 6] {
        run(&pool, alterations[wrong].1).await;
    }
    assert!(cli(&database, &["rebuild", "all"]).await.status.success());
    assert_eq!(verify(&database).await.0, Some(0));
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    assert_eq!(hospital.found("/patients/101/heart-rate").await["heartRate"], 91);
    assert_eq!(hospital.found("/patients?ward=4B").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn verify_and_rebuild_work_while_readings_arrive() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    let writing = tokio::spawn({
        let hospital = hospital.clone();
        async move {
            for i in 0_i64.. {
                let patient = format!("p{}", i % 7);
                hospital.store(&[heart_rate(&patient, 80.0 + (i % 60) as f64, now())]).await;
            }
        }
    });
    for _ in 0..2 {
        let rebuilt = cli(&database, &["rebuild", "all"]).await;
        assert!(rebuilt.status.success(), "{rebuilt:?}");
        let (code, said) = verify(&database).await;
        assert_eq!(code, Some(0), "{said}");
    }
    assert!(!writing.is_finished(), "a write was refused");
    writing.abort();
}
