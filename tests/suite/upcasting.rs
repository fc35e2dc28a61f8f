//! What an older version wrote is read as this one would have written it, wherever it is
//! read; and stays in the log as it was.

use chrono::TimeDelta;
use serde_json::Value;
use vitals::event::Event;
use vitals::log::{Window, read_non_readings};

use crate::hospital::Hospital;
use crate::log::{reading, time};
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::{cli, eventually};

const OLD: &str = include_str!("../../fixtures/events/alert-1.json");
const NEW: &str = include_str!("../../fixtures/events/alert-2.json");

#[tokio::test]
async fn an_alert_of_version_1_is_read_as_version_2_by_folds_fan_out_and_questions_alike() {
    let database = Database::new().await;
    let (log, pool) = (database.log().await, database.pool());
    let (old, new): (Value, Value) =
        (serde_json::from_str(OLD).unwrap(), serde_json::from_str(NEW).unwrap());
    let at = time("2026-03-01T14:03:00Z");
    let shard = log.shard_of("h", "p");
    let event = Event {
        tenant: "h".into(),
        kind: "HIGH_HEART_RATE".to_owned(),
        vital: None,
        value: None,
        data: Some(OLD.trim().to_owned()),
        ..reading("p", at)
    };
    log.append(shard, &[event]).await.unwrap();

    // As consumers read it: the fan-out and the live stream.
    let mut connection = pool.acquire().await.unwrap();
    let window = Window::between(&mut connection, shard, 0, 1).await.unwrap();
    let read = read_non_readings(&mut connection, &window).await.unwrap();
    let data: Value = serde_json::from_str(read[0].event.data.as_ref().unwrap()).unwrap();
    assert_eq!(data, new);
    assert_eq!(read[0].event.alert().unwrap().unwrap().v, 2);

    // As it is folded, asked for, and replayed.
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "h");
    let id = old["alertId"].as_str().unwrap();
    let folded =
        eventually("the alert to be folded", std::time::Duration::from_secs(30), || async {
            let (status, alert) = hospital.get(&format!("/alerts/{id}")).await;
            (status == 200).then_some(alert)
        })
        .await;
    assert_eq!((&folded["value"], &folded["event"]), (&old["value"], &old["event"]));
    let as_of = vitals::clock::rfc3339(at + TimeDelta::minutes(1));
    let state = hospital.found(&format!("/patients/p?asOf={as_of}")).await;
    assert_eq!(state["alerts"][0]["id"], old["alertId"]);
    let replay = cli(&database, &["replay", "--tenant", "h", "--patient", "p"]).await;
    let replayed: Value = serde_json::from_slice(&replay.stdout).unwrap();
    assert_eq!((&replayed["v"], &replayed["because"]), (&new["v"], &new["because"]));

    // The row is as it was written, and so is what the chain covers.
    let stored: String =
        sqlx::query_scalar("select data::text from event").fetch_one(&pool).await.unwrap();
    assert_eq!(stored, OLD.trim());
    let verified = cli(&database, &["verify"]).await;
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test]
async fn what_is_new_or_nobodys_or_no_alert_is_read_as_it_stands() {
    let database = Database::new().await;
    let pool = database.pool();
    for (kind, data) in [
        ("HIGH_HEART_RATE", Some(NEW.trim())),
        ("HIGH_HEART_RATE", Some("{\"v\":1,\"state\":\"raised\"}")),
        ("HIGH_HEART_RATE", Some("[1]")),
        ("reading", Some(OLD.trim())),
        ("patient_registered", Some("{\"v\":1,\"record\":{\"alertId\":\"mine\"}}")),
        ("reading", None),
    ] {
        let sql = "select event_data($1, $2::json)::text";
        let read: Option<String> =
            sqlx::query_scalar(sql).bind(kind).bind(data).fetch_one(&pool).await.unwrap();
        assert_eq!(read.as_deref(), data, "{kind}");
    }
}
