//! Deliveries that are sent once more: one, or those of a time.

use std::time::Duration;

use serde_json::{Value, json};
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, now};
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::receiver::{Answer, Receiver};
use crate::support::server::Server;
use crate::webhooks::received;

const SOON: Duration = Duration::from_secs(20);

/// Three alerts, delivered.
async fn delivered(hospital: &Hospital, receiver: &Receiver) -> (String, Vec<Value>) {
    let endpoint = hospital.endpoint(receiver, &["*"]).await;
    for patient in ["101", "102", "103"] {
        hospital.measure(patient, 130.0).await;
    }
    received(receiver, 3).await;
    let all = eventually("three delivered", SOON, || async {
        let all = hospital.deliveries(&endpoint).await;
        all.iter().all(|d| d["state"] == "delivered").then_some(all)
    })
    .await;
    (endpoint, all)
}

#[tokio::test]
async fn a_delivery_is_replayed_to_the_letter_under_the_same_id() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (hospital, receiver) = (Hospital::new(&server, "ward"), Receiver::start().await);
    let (endpoint, all) = delivered(&hospital, &receiver).await;
    let path = format!("/deliveries/{}", all[0]["id"].as_str().unwrap());
    let replay = format!("{path}/replay");
    // What fails is tried again by a schedule that begins now, also for an old delivery.
    sqlx::query("update delivery set created_at = created_at - interval '3 days'")
        .execute(&database.pool())
        .await
        .unwrap();
    receiver.answer_next([Answer::Status(500), Answer::Status(500)]);
    let (status, answer) = hospital.post(&replay, &json!({})).await;
    assert_eq!((status, &answer["id"]), (202, &all[0]["id"]), "{answer}");
    let came = received(&receiver, 6).await;
    let original = came[..3].iter().find(|d| d.id == all[0]["webhookId"]).unwrap();
    for again in &came[3..] {
        assert_eq!((&again.id, &again.text), (&original.id, &original.text));
    }
    let delivery = eventually("the last attempt to be recorded", SOON, || async {
        Some(hospital.found(&path).await).filter(|delivery| delivery["state"] == "delivered")
    })
    .await;
    let numbers: Vec<&Value> =
        delivery["log"].as_array().unwrap().iter().map(|a| &a["number"]).collect();
    assert_eq!(numbers, [1, 2, 3, 4], "its attempts go on counting");

    let theirs = Hospital::new(&server, "other");
    assert_eq!(theirs.post(&replay, &json!({})).await.0, 404);
    assert_eq!(
        theirs
            .post(&format!("/webhooks/{endpoint}/replay"), &json!({ "from": rfc3339(now()) }))
            .await
            .0,
        404
    );
    receiver.answer_next([Answer::Status(410)]);
    hospital.measure("104", 130.0).await;
    eventually("the endpoint to be disabled", SOON, || async {
        let endpoint = hospital.found(&format!("/webhooks/{endpoint}")).await;
        (endpoint["state"] == "disabled").then_some(())
    })
    .await;
    let (status, problem) = hospital.post(&replay, &json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("webhook_disabled")), "{problem}");
}

#[tokio::test]
async fn a_time_is_replayed_by_state_and_by_event() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (hospital, receiver) = (Hospital::new(&server, "ward"), Receiver::start().await);
    let (endpoint, all) = delivered(&hospital, &receiver).await;
    let replay = format!("/webhooks/{endpoint}/replay");
    let (from, middle) = (&all[0]["createdAt"], &all[2]["createdAt"]);
    for (range, expect) in [
        (json!({ "from": from, "to": middle }), 2),
        (json!({ "from": middle }), 1),
        (json!({ "from": from, "state": "dead" }), 0),
        (json!({ "from": from, "event": "LOW_SPO2" }), 0),
        (json!({ "from": from, "state": "delivered", "event": "HIGH_HEART_RATE" }), 3),
    ] {
        let before = receiver.deliveries().len();
        let (status, answer) = hospital.post(&replay, &range).await;
        assert_eq!((status, &answer["replayed"]), (202, &json!(expect)), "{range}: {answer}");
        let came = received(&receiver, before + expect).await;
        assert!(came[before..].iter().all(|d| all.iter().any(|old| old["webhookId"] == d.id)));
        eventually("all to be recorded", SOON, || async {
            let all = hospital.deliveries(&endpoint).await;
            all.iter().all(|d| d["state"] == "delivered").then_some(())
        })
        .await;
    }
    for (bad, code) in [
        (json!({ "from": middle, "to": from }), "invalid_range"),
        (json!({ "from": from, "state": "pending" }), "invalid_state"),
        (json!({ "from": "yesterday" }), "invalid_body"),
        (json!({}), "invalid_body"),
    ] {
        let (status, problem) = hospital.post(&replay, &bad).await;
        assert_eq!((status, &problem["code"]), (422, &json!(code)), "{bad}: {problem}");
    }
    // More than one request may replay: none is touched.
    sqlx::query(
        "insert into delivery (shard, position, endpoint_id, id, tenant, webhook_id, event, body, \
                               state, due_at, created_at) \
         select 0, 1000000 + n, $1, gen_random_uuid(), 'ward', 'msg', 'OLD', '{}', 'dead', now(), now() \
         from generate_series(1, 10001) n",
    )
    .bind(uuid::Uuid::parse_str(&endpoint).unwrap())
    .execute(&database.pool())
    .await
    .unwrap();
    let (status, problem) = hospital.post(&replay, &json!({ "from": from, "event": "OLD" })).await;
    assert_eq!((status, &problem["code"]), (422, &json!("too_many_deliveries")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("10001"), "{problem}");
    let dead = hospital.found(&format!("/webhooks/{endpoint}/deliveries?state=dead&limit=1")).await;
    assert_eq!(dead["items"].as_array().unwrap().len(), 1);
}
