//! Jobs: they outlive the instance that began them, and no tenant's hold up another's.
//!
//! A job is kept in the middle of its work by a lock on the log, which it reads.

use std::time::Duration;

use chrono::TimeDelta;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::server::Server;

/// A lease has to run out, and the machine may be busy.
const LEASED: Duration = Duration::from_secs(90);

/// Nobody reads a reading until this is let go. The partitions alone, so that what is no reading
/// can still be appended: who asks for a job is on record before they are answered.
async fn held(database: &Database) -> PgConnection {
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let lock = "begin; do $$ declare part regclass; begin \
                for part in select inhrelid from pg_inherits where inhparent = 'reading'::regclass loop \
                    execute format('lock table %s in access exclusive mode', part); \
                end loop; end $$";
    // Whoever reads several of them in another order may be in the way.
    while sqlx::raw_sql(lock).execute(&mut connection).await.is_err() {
        sqlx::raw_sql("rollback").execute(&mut connection).await.unwrap();
    }
    connection
}

async fn let_go(mut lock: PgConnection) {
    sqlx::raw_sql("rollback").execute(&mut lock).await.unwrap();
    lock.close().await.unwrap();
}

fn question() -> Value {
    json!({ "rule": {
        "id": "mine", "event": "MINE", "priority": "medium",
        "when": { "vital": "heart_rate", "op": ">", "value": 120 },
    } })
}

async fn with_readings(server: &Server, tenant: &str) -> Hospital {
    let hospital = Hospital::new(server, tenant);
    let begin = now() - TimeDelta::minutes(50);
    let value = |n| if n % 10 < 5 { 130.0 } else { 80.0 };
    let readings: Vec<Value> =
        (0..40).map(|n| heart_rate("101", value(n), begin + TimeDelta::minutes(n))).collect();
    hospital.store(&readings).await;
    hospital
}

/// Starts a backtest; its path.
async fn started(hospital: &Hospital) -> String {
    let (status, body) = hospital.post("/rules/backtest", &question()).await;
    assert_eq!(status, 202, "{body}");
    format!("/jobs/{}", body["id"].as_str().unwrap())
}

async fn until(hospital: &Hospital, job: &str, state: &str) -> Value {
    eventually(&format!("a job that is {state}"), LEASED, || async {
        let (status, body) = hospital.get(job).await;
        assert_eq!(status, 200, "{body}");
        (body["state"] == state).then_some(body)
    })
    .await
}

/// Two servers, and a job that the first is in the middle of: the second is frozen, so that
/// it cannot have begun it.
async fn begun_by_the_first(
    database: &Database,
) -> (Server, Server, Hospital, PgConnection, String) {
    let (first, second) = (Server::start(database).await, Server::start(database).await);
    let hospital = with_readings(&first, "ward").await;
    second.signal(Signal::STOP);
    let lock = held(database).await;
    let job = started(&hospital).await;
    until(&hospital, &job, "running").await;
    (first, second, hospital, lock, job)
}

/// How often the one job was claimed, and how often it was lost.
async fn claims(database: &Database) -> (i32, i16) {
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    sqlx::query_as("select claim, lost from job").fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn a_job_goes_on_elsewhere_when_its_instance_is_killed_in_the_middle_of_it() {
    let database = Database::new().await;
    let (first, second, hospital, lock, job) = begun_by_the_first(&database).await;
    first.kill().await;
    second.signal(Signal::CONT);
    // The other one tells of it at once, and does it when the lease is over.
    let hospital = hospital.after_restart(&second);
    let (status, body) = hospital.get(&job).await;
    assert_eq!((status, &body["state"]), (200, &json!("running")));
    let_go(lock).await;
    let done = until(&hospital, &job, "done").await;
    let report = &done["result"]["report"];
    assert_eq!((&report["alerts"], &report["readings"]), (&json!(4), &json!(40)), "{done}");
    assert_eq!(claims(&database).await, (2, 1));
    assert_eq!(Hospital::new(&second, "other").get(&job).await.0, 404);
}

#[tokio::test]
async fn who_was_frozen_writes_nothing_over_the_end_that_another_one_wrote() {
    let database = Database::new().await;
    let (first, second, hospital, lock, job) = begun_by_the_first(&database).await;
    first.signal(Signal::STOP);
    second.signal(Signal::CONT);
    let_go(lock).await;
    let hospital = hospital.after_restart(&second);
    until(&hospital, &job, "done").await;
    // So that a second end would be seen.
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let mark = "update job set error = 'the first end'";
    sqlx::raw_sql(mark).execute(&mut connection).await.unwrap();
    first.signal(Signal::CONT);
    eventually("the frozen one to learn it", LEASED, || async {
        first.logged().contains("another's by now").then_some(())
    })
    .await;
    let (_, body) = hospital.get(&job).await;
    assert_eq!((&body["state"], &body["error"]), (&json!("done"), &json!("the first end")));
}

#[tokio::test]
async fn an_instance_that_is_stopped_gives_its_job_back_at_once() {
    let database = Database::new().await;
    let first = Server::start(&database).await;
    let hospital = with_readings(&first, "ward").await;
    let lock = held(&database).await;
    let job = started(&hospital).await;
    until(&hospital, &job, "running").await;
    let (status, _) = first.terminate().await;
    assert!(status.success());
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let state: String =
        sqlx::query_scalar("select state from job").fetch_one(&mut connection).await.unwrap();
    assert_eq!(state, "waiting");
    let_go(lock).await;
    let second = Server::start(&database).await;
    until(&hospital.after_restart(&second), &job, "done").await;
    assert_eq!(claims(&database).await, (2, 0), "nobody lost it");
}

#[tokio::test]
async fn a_tenant_that_fills_its_queue_holds_up_nobody_elses_job() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let greedy = with_readings(&server, "greedy").await;
    let modest = with_readings(&server, "modest").await;
    let lock = held(&database).await;
    let mut jobs = Vec::new();
    let refused = loop {
        let (status, body) = greedy.post("/rules/backtest", &question()).await;
        if status != 202 {
            break (status, body);
        }
        jobs.push(format!("/jobs/{}", body["id"].as_str().unwrap()));
        assert!(jobs.len() < 100, "there must be an end");
    };
    assert_eq!((refused.0, &refused.1["code"]), (429, &json!("too_many_jobs")));
    until(&greedy, &jobs[0], "running").await;
    // All of its jobs were asked for before; one of them runs, and this one beside it.
    let job = started(&modest).await;
    until(&modest, &job, "running").await;
    assert_eq!(greedy.get(&jobs[1]).await.1["state"], "waiting");
    let metrics = server.client().get(server.url("/metrics")).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("vitals_jobs_refused_total{limit=\"tenant\"} 1"), "{metrics}");

    // Who cancels one makes room for another.
    assert_eq!(greedy.delete(&jobs[1]).await.0, 204);
    assert_eq!(greedy.get(&jobs[1]).await.1["state"], "cancelled");
    jobs[1] = started(&greedy).await;
    // Also one that runs; it is not worked at any longer, and the next one begins.
    assert_eq!(greedy.delete(&jobs[0]).await.0, 204);
    until(&greedy, &jobs[2], "running").await;
    assert_eq!(greedy.get(&jobs[0]).await.1["state"], "cancelled");
    assert_eq!(modest.delete(&jobs[2]).await.0, 404, "another tenant's");
    let_go(lock).await;
    until(&modest, &job, "done").await;
    for job in &jobs[1..] {
        until(&greedy, job, "done").await;
    }
    assert_eq!(greedy.get(&jobs[0]).await.1["state"], "cancelled");
}

#[tokio::test]
async fn jobs_that_end_whoever_runs_them_are_given_up_and_what_is_old_is_forgotten() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = with_readings(&server, "ward").await;
    let lock = held(&database).await;
    let job = started(&hospital).await;
    until(&hospital, &job, "running").await;
    // As if it had ended three processes, and this one were the fourth.
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let lost =
        "update job set claim = claim + 1, lost = 3, lease_until = now() - interval '1 hour'";
    sqlx::raw_sql(lost).execute(&mut connection).await.unwrap();
    let failed = until(&hospital, &job, "failed").await;
    assert!(failed["error"].as_str().unwrap().contains("ended early"), "{failed}");
    let_go(lock).await;
    let old = "update job set ended_at = now() - interval '25 hours'";
    sqlx::raw_sql(old).execute(&mut connection).await.unwrap();
    eventually("the job to be forgotten", LEASED, || async {
        (hospital.get(&job).await.0 == 404).then_some(())
    })
    .await;
}
