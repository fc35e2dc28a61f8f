//! Corrections, from outside: what was entered in error stops counting, and what was
//! known before can still be asked for.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use vitals::clock::rfc3339;

use crate::archive::ward::{Ward, said};
use crate::hospital::{Hospital, heart_rate, now};
use crate::log::time;
use crate::support::http::post;
use crate::support::postgres::{Database, caught_up};
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::{cli, eventually};
use crate::webhooks::received;

const SOON: Duration = Duration::from_secs(20);

/// A retraction of a heart rate of `watch-7`.
fn of(at: DateTime<Utc>) -> Value {
    json!({
        "vital": "heart_rate", "deviceId": "watch-7", "measuredAt": rfc3339(at),
        "reason": "cuff on the wrong patient",
    })
}

async fn retract(hospital: &Hospital, patient: &str, body: &Value) -> (u16, Value) {
    hospital.post(&format!("/patients/{patient}/readings/retract"), body).await
}

/// The heart rate of a state, or null.
async fn rate(hospital: &Hospital, question: &str) -> Value {
    hospital.found(question).await["vitals"]["heart_rate"]["value"].clone()
}

#[tokio::test]
async fn a_retracted_reading_stops_counting_and_the_one_before_it_counts_again() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "h");
    let (first, second) = (now() - TimeDelta::minutes(10), now() - TimeDelta::minutes(5));
    hospital.store(&[heart_rate("p", 70.0, first), heart_rate("p", 190.0, second)]).await;
    assert_eq!(rate(&hospital, "/patients/p").await, 190);
    let before = now();

    let (status, said) = retract(&hospital, "p", &of(second)).await;
    assert_eq!((status, &said["value"], &said["by"]), (201, &json!(190), &json!("tester")));
    let retracted_at = said["retractedAt"].as_str().unwrap().to_owned();

    // The present, the past as it is known now, and what was known.
    assert_eq!(rate(&hospital, "/patients/p").await, 70);
    assert_eq!(hospital.found("/patients/p/heart-rate").await["heartRate"], 70);
    assert_eq!(hospital.found("/patients").await["items"][0]["vitals"]["heart_rate"]["value"], 70);
    let as_of = rfc3339(second + TimeDelta::minutes(1));
    assert_eq!(rate(&hospital, &format!("/patients/p?asOf={as_of}")).await, 70);
    let known = rfc3339(before);
    assert_eq!(rate(&hospital, &format!("/patients/p?asOf={as_of}&knownAt={known}")).await, 190);
    let instant_before = rfc3339(time(&retracted_at) - TimeDelta::microseconds(1));
    assert_eq!(rate(&hospital, &format!("/patients/p?knownAt={instant_before}")).await, 190);
    assert_eq!(rate(&hospital, &format!("/patients/p?knownAt={retracted_at}")).await, 70);

    // History and buckets.
    let history = hospital.found("/patients/p/readings?vital=heart_rate").await;
    let values: Vec<&Value> =
        history["items"].as_array().unwrap().iter().map(|item| &item["value"]).collect();
    assert_eq!(values, [70]);
    let buckets = hospital.found("/patients/p/readings?vital=heart_rate&every=1h").await;
    let counted: i64 =
        buckets["items"].as_array().unwrap().iter().map(|b| b["count"].as_i64().unwrap()).sum();
    assert_eq!(counted, 1);

    // The last one, too: then there is none.
    assert_eq!(retract(&hospital, "p", &of(first)).await.0, 201);
    assert_eq!(rate(&hospital, "/patients/p").await, Value::Null);
    assert_eq!(hospital.get("/patients/p/heart-rate").await.0, 404);
}

#[tokio::test]
async fn an_alert_whose_reading_was_entered_in_error_is_retracted_and_who_asked_for_it_is_told() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "h");
    let (named, all) = (Receiver::start().await, Receiver::start().await);
    let events = ["HIGH_HEART_RATE", "ALERT_RETRACTED"];
    hospital.endpoint(&named, &events).await;
    hospital.endpoint(&all, &["*"]).await;
    let start = now();
    let at = |second: i64| start - TimeDelta::seconds(60 - second);
    let value = [(0_i64, 130.0), (1, 140.0)];
    hospital.store(&value.map(|(second, value)| heart_rate("p", value, at(second)))).await;
    let raised = received(&named, 1).await.remove(0);
    let path = format!("/alerts/{}", raised.body["alertId"].as_str().unwrap());

    // It does not stand on this one.
    assert_eq!(retract(&hospital, "p", &of(at(1))).await.0, 201);
    assert_eq!(hospital.found(&path).await["state"], "active");
    let before = rfc3339(now());
    assert_eq!(retract(&hospital, "p", &of(at(0))).await.0, 201);
    let told = received(&named, 2).await.remove(1);
    for (key, expected) in [
        ("type", json!("ALERT_RETRACTED")),
        ("event", json!("HIGH_HEART_RATE")),
        ("state", json!("retracted")),
        ("alertId", raised.body["alertId"].clone()),
        ("value", json!(130)),
        ("measuredAt", raised.body["measuredAt"].clone()),
    ] {
        assert_eq!(told.body[key], expected, "{key} of {}", told.body);
    }
    assert_ne!(told.id, raised.id);
    let alert = hospital.found(&path).await;
    assert_eq!(alert["state"], "retracted", "{alert}");
    let states: Vec<&Value> =
        alert["history"].as_array().unwrap().iter().map(|said| &said["state"]).collect();
    assert_eq!(states, ["raised", "retracted"]);
    let standing = async |question: &str| {
        let state = hospital.found(&format!("/patients/p{question}")).await;
        state["alerts"].as_array().unwrap().len()
    };
    assert_eq!(standing("").await, 0);
    assert_eq!(standing(&format!("?asOf={}", rfc3339(now()))).await, 0);
    // What was known is known still.
    assert_eq!(standing(&format!("?knownAt={before}")).await, 1);

    // The next one is raised anew; one that is over is not taken back.
    let again = [(2_i64, 150.0), (3, 80.0)];
    hospital.store(&again.map(|(second, value)| heart_rate("p", value, at(second)))).await;
    let pages = received(&named, 4).await;
    assert_eq!(retract(&hospital, "p", &of(at(2))).await.0, 201);
    hospital.store(&[heart_rate("p", 160.0, at(4))]).await;
    assert!(pages[2..].iter().all(|page| page.body["alertId"] != raised.body["alertId"]));
    let last = received(&named, 5).await.remove(4);
    assert_eq!((&last.body["state"], &last.body["value"]), (&json!("raised"), &json!(160)));
    // Whoever wants what pages is not told of what does not.
    let kinds: Vec<Value> =
        received(&all, 4).await.into_iter().map(|page| page.body["type"].clone()).collect();
    assert_eq!(kinds, ["HIGH_HEART_RATE"; 4]);
}

#[tokio::test]
async fn a_retraction_is_said_once_however_often_and_at_once_it_is_asked_for() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "h");
    let at = hospital.measure("p", 130.0).await;
    // All have begun before the first is done.
    let pool = database.pool();
    let mut held = pool.begin().await.unwrap();
    sqlx::query("select 1 from shard_head for update").execute(&mut *held).await.unwrap();
    let all = join_all((0..8).map(|_| async { retract(&hospital, "p", &of(at)).await }));
    let release = async {
        eventually("all of them to wait", SOON, || async {
            let waiting = "select count(*) from pg_stat_activity \
                           where datname = current_database() and wait_event_type = 'Lock'";
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&pool).await.unwrap();
            (waiting >= 8).then_some(())
        })
        .await;
        held.commit().await.unwrap();
    };
    let (said, ()) = tokio::join!(all, release);
    let first = said.iter().filter(|(status, _)| *status == 201).count();
    assert_eq!((first, said.len()), (1, 8), "{said:?}");
    assert!(said.iter().all(|(_, body)| *body == said[0].1), "{said:?}");
    let events: i64 =
        sqlx::query_scalar("select count(*) from event where type = 'reading_retracted'")
            .fetch_one(&database.pool())
            .await
            .unwrap();
    assert_eq!(events, 1);

    // Measured again it is the same reading; by another device, or later, a new one.
    let again = hospital.post("/readings", &json!([heart_rate("p", 81.0, at)])).await;
    assert_eq!((again.0, &again.1["duplicates"]), (201, &json!(1)));
    assert_eq!(hospital.get("/patients/p/heart-rate").await.0, 404);
    let mut other = heart_rate("p", 82.0, at);
    other["deviceId"] = "watch-8".into();
    hospital.store(&[other]).await;
    assert_eq!(hospital.found("/patients/p/heart-rate").await["heartRate"], 82);
    hospital.store(&[heart_rate("p", 83.0, at + TimeDelta::milliseconds(1))]).await;
    assert_eq!(hospital.found("/patients/p/heart-rate").await["heartRate"], 83);
}

#[tokio::test]
async fn what_is_wrong_with_a_retraction_is_told_with_its_place() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "h");
    let at = hospital.measure("p", 130.0).await;
    for (key, value, code) in [
        ("vital", json!("pulse"), "unknown_vital"),
        ("deviceId", json!("no id"), "invalid_id"),
        ("measuredAt", json!("yesterday"), "invalid_time"),
        ("reason", json!("  "), "invalid_reason"),
        ("reason", json!("x".repeat(1001)), "invalid_reason"),
        ("reason", json!("\0"), "nul_character"),
        ("vital", Value::Null, "missing_field"),
        ("reason", Value::Null, "missing_field"),
    ] {
        let mut body = of(at);
        body[key] = value;
        let (status, said) = retract(&hospital, "p", &body).await;
        assert_eq!((status, &said["code"]), (422, &json!(code)), "{said}");
        assert_eq!(said["pointer"], format!("/{key}"));
    }
    let (status, said) = retract(&hospital, "p", &of(at + TimeDelta::microseconds(1))).await;
    assert_eq!((status, &said["code"]), (404, &json!("not_found")));
    assert_eq!(retract(&hospital, "q", &of(at)).await.0, 404);
    let others = Hospital::new(&server, "another");
    assert_eq!(retract(&others, "p", &of(at)).await, (status, said));
    assert_eq!(rate(&hospital, "/patients/p").await, 130);
}

#[tokio::test]
async fn only_who_may_correct_may_and_a_device_only_its_own_readings() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "h");
    let at = hospital.measure("p", 130.0).await;
    let url = server.url("/api/v1/patients/p/readings/retract");
    let with = |scope: &str, narrowed: &[(&str, &str)]| {
        server.token_with(|claims| {
            claims["tenant"] = "h".into();
            claims["scope"] = scope.into();
            narrowed.iter().for_each(|(key, value)| claims[*key] = (*value).into());
        })
    };
    let correct = "readings:correct";
    for (token, status) in [
        (String::new(), 401),
        (with("readings:write vitals:read", &[]), 403),
        (with(correct, &[("device", "watch-8")]), 403),
        (with(correct, &[("patient", "q")]), 403),
        (with(correct, &[("device", "watch-7"), ("patient", "p")]), 201),
        (with(correct, &[]), 200),
    ] {
        let said = post(&url, &token, &of(at)).await;
        assert_eq!(said.status, StatusCode::from_u16(status).unwrap(), "{}", said.text);
    }
}

#[tokio::test]
async fn a_reading_of_an_archived_month_cannot_be_retracted_and_a_retracted_one_stays_so() {
    let ward = Ward::new().await;
    let hospital = &ward.hospital;
    // The newest of February, of every device, and before that of its vital.
    let newest = "select value, occurred_at, source_id from event \
                  where patient_id = 'p2' and vital = 'heart_rate' order by occurred_at desc limit 9";
    let wrong: Vec<(f64, DateTime<Utc>, String)> =
        sqlx::query_as(newest).fetch_all(&ward.pool).await.unwrap();
    let (value, at, device) = wrong[0].clone();
    let body = |at: DateTime<Utc>, device: &str| {
        let mut body = of(at);
        body["deviceId"] = device.into();
        body
    };
    assert_eq!(rate(hospital, "/patients/p2").await, value);
    let known = now();
    for (_, at, device) in &wrong {
        assert_eq!(retract(hospital, "p2", &body(*at, device)).await.0, 201);
    }
    let left = rate(hospital, "/patients/p2").await;
    assert_ne!(left, value);
    caught_up(&ward.pool).await;
    ward.archive("2026-03").await;

    // The fold is as it was, also folded anew; what was known then is known still.
    ward.is_sound().await;
    assert_eq!(rate(hospital, "/patients/p2").await, left);
    let then = rfc3339(known);
    assert_eq!(rate(hospital, &format!("/patients/p2?knownAt={then}")).await, value);
    let rebuilt = cli(&ward.database, &["rebuild", "all"]).await;
    assert!(rebuilt.status.success(), "{}", said(&rebuilt));
    assert_eq!(rate(hospital, "/patients/p2").await, left);

    // Said again it was said; a new one is refused, whether the reading is still at hand.
    assert_eq!(retract(hospital, "p2", &body(at, &device)).await.0, 200);
    let kept = "select occurred_at, source_id from event where patient_id = 'p3' \
                and vital = 'heart_rate' order by occurred_at desc limit 1";
    let (at, device): (DateTime<Utc>, String) =
        sqlx::query_as(kept).fetch_one(&ward.pool).await.unwrap();
    for at in [at, time("2026-01-03T12:34:56Z")] {
        let (status, said) = retract(hospital, "p3", &body(at, &device)).await;
        assert_eq!((status, &said["code"]), (410, &json!("month_archived")), "{said}");
    }
}
