//! Stored rules that the program cannot read: those at work stop where it is seen, nobody
//! is parked for it, and writing the rule anew mends it.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::PgPool;
use vitals::consumer::{self, Stopped};
use vitals::event::{Event, NO_PATIENT, RULE_CHANGED};
use vitals::log::Log;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::{cli, eventually, scratch_dir};

const SOON: Duration = Duration::from_secs(60);

fn rule(value: i64) -> Value {
    json!({
        "id": "mine", "event": "MINE", "priority": "high", "mode": "active",
        "when": { "vital": "heart_rate", "op": ">", "value": value },
    })
}

async fn warnings(server: &Server) -> String {
    let ready = reqwest::get(server.url("/health/ready")).await.unwrap();
    assert_eq!(ready.status(), 200);
    ready.json::<Value>().await.unwrap()["warnings"].to_string()
}

/// The alerts that `mine` has raised of a patient, however long it takes until there is one.
async fn raised(hospital: &Hospital, patient: &str) -> usize {
    eventually("an alert of mine", SOON, || async {
        let found = hospital.found(&format!("/alerts?patientId={patient}")).await;
        let alerts = found["items"].as_array().unwrap();
        let mine = alerts.iter().filter(|alert| alert["event"] == "MINE").count();
        (mine > 0).then_some(mine)
    })
    .await
}

async fn where_rules_stopped(pool: &PgPool) -> Vec<Stopped> {
    let stopped = consumer::stopped(pool).await.unwrap();
    stopped.into_iter().filter(|stopped| stopped.consumer == "rules").collect()
}

#[tokio::test]
async fn a_kept_rule_that_cannot_be_read_stops_the_rules_in_sight_until_it_is_written_anew() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let options = ["--allow-webhook-net", "127.0.0.0/8"];
    let server = Server::start_in(&dir, Some(&database.url), &options).await;
    let hospital = Hospital::new(&server, "ward");
    assert_eq!(hospital.put("/rules/mine?force=true&reason=a-test", &rule(110)).await.0, 200);
    hospital.store(&[heart_rate("p", 115.0, now())]).await;
    assert_eq!(raised(&hospital, "p").await, 1);
    server.terminate().await;

    // As a newer version of the program would have kept it.
    let (log, pool) = (database.log().await, database.pool());
    let newer = "update rule_memory set data = replace(data::text, '\"event\"', '\"moon\": 1, \"event\"')::json \
                 where kind = 'rule' and id = 'mine'";
    let kept = sqlx::raw_sql(newer).execute(&pool).await.unwrap().rows_affected();
    assert_eq!(kept, log.shards().count() as u64, "in every shard");
    let server = Server::start_in(&dir, Some(&database.url), &options).await;
    let hospital = hospital.after_restart(&server);
    let patients = ["q", "r", "s", "t"];
    let at = now() + TimeDelta::milliseconds(1);
    hospital.store(&patients.map(|patient| heart_rate(patient, 116.0, at))).await;
    let stopped = eventually("the rules to have stopped", SOON, || async {
        where_rules_stopped(&pool).await.pop()
    })
    .await;
    assert!(stopped.reason.contains("the rule mine of ward"), "{}", stopped.reason);
    assert!(stopped.reason.contains("moon"), "{}", stopped.reason);
    let said = warnings(&server).await;
    assert!(said.contains("rules has stopped") && said.contains("mine of ward"), "{said}");
    let metrics = reqwest::get(server.url("/metrics")).await.unwrap().text().await.unwrap();
    let gauge = "vitals_stopped_shards{consumer=\"rules\"} ";
    let shards = metrics.lines().find_map(|line| line.strip_prefix(gauge));
    assert!(shards.is_some_and(|shards| shards.parse::<f64>().unwrap() >= 1.0), "{metrics}");
    // No patient is to blame, and each shard has said it once.
    assert_eq!(consumer::parked(&pool).await.unwrap(), []);
    let logged = server.logged();
    let told = logged.matches("consumer=\"rules\"").count();
    assert!((1..=log.shards().count()).contains(&told), "{logged}");

    assert_eq!(hospital.put("/rules/mine?force=true&reason=a-test", &rule(112)).await.0, 200);
    for patient in patients {
        assert_eq!(raised(&hospital, patient).await, 1, "{patient}");
    }
    eventually("the rules to go on everywhere", SOON, || async {
        (where_rules_stopped(&pool).await.is_empty() && !warnings(&server).await.contains("rules"))
            .then_some(())
    })
    .await;
}

/// Puts a change of the rule into every shard that only another version could have written.
async fn write_unreadable(log: &Log) {
    let data = r#"{"rule":{"id":"mine","moon":"full"},"version":2}"#;
    let event = Event::non_reading(RULE_CHANGED, ("ward", NO_PATIENT), "somebody", now(), data);
    log.ensure_partitions(std::iter::once(now())).await.unwrap();
    for shard in log.shards() {
        log.append(shard, std::slice::from_ref(&event)).await.unwrap();
    }
}

#[tokio::test]
async fn a_change_that_cannot_be_read_parks_the_tenants_stream_and_is_passed_over_once_mended() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let (log, pool) = (database.log().await, database.pool());
    assert_eq!(hospital.put("/rules/mine?force=true&reason=a-test", &rule(110)).await.0, 200);
    write_unreadable(&log).await;
    let parked = async || {
        let parked = consumer::parked(&pool).await.unwrap();
        parked.into_iter().filter(|parked| parked.consumer == "rules").count()
    };
    eventually("the stream to be parked in every shard", SOON, || async {
        (parked().await == log.shards().count()).then_some(())
    })
    .await;
    assert!(warnings(&server).await.contains("rules has parked"));
    // The API finds the same rule unreadable.
    let silence = json!({ "rule": "mine", "reason": "r", "until": now() + TimeDelta::hours(1) });
    let (status, refused) = hospital.post("/silences", &silence).await;
    assert_eq!((status, &refused["code"]), (500, &json!("stored_unreadable")), "{refused}");
    // The version before judges meanwhile.
    hospital.store(&[heart_rate("p", 115.0, now())]).await;
    assert_eq!(raised(&hospital, "p").await, 1);
    let resumed = cli(&database, &["resume", "_tenant"]).await;
    assert!(!resumed.status.success(), "not mended: {resumed:?}");

    assert_eq!(hospital.put("/rules/mine?force=true&reason=a-test", &rule(130)).await.0, 200);
    let resumed = cli(&database, &["resume", "_tenant"]).await;
    assert!(resumed.status.success(), "{resumed:?}");
    assert_eq!(parked().await, 0);
    // And the new one from now on.
    hospital.store(&[heart_rate("q", 125.0, now()), heart_rate("r", 135.0, now())]).await;
    assert_eq!(raised(&hospital, "r").await, 1);
    let of_q = hospital.found("/alerts?patientId=q").await;
    assert!(!of_q.to_string().contains("MINE"), "{of_q}");
}
