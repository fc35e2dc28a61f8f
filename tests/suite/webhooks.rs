//! Webhooks: what is sent, how often, and to whom not.
//!
//! The program is the real binary, the receiver checks every signature by itself.
//! What must not be sent is shown by what was sent after it: a patient's readings
//! are judged in order, so a later alert of the same patient that arrived proves
//! that an earlier one was never on its way.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::receiver::{Answer, Delivery, Receiver};
use crate::support::server::Server;

const SOON: Duration = Duration::from_secs(20);

/// A server, a hospital and the place where its alerts go.
struct Scene {
    database: Database,
    server: Server,
    hospital: Hospital,
    receiver: Receiver,
    endpoint: String,
}

impl Scene {
    async fn new() -> Scene {
        let database = Database::new().await;
        let server = Server::start(&database).await;
        let hospital = Hospital::new(&server, "ward");
        let receiver = Receiver::start().await;
        let endpoint = hospital.endpoint(&receiver, &["HIGH_HEART_RATE"]).await;
        Scene { database, server, hospital, receiver, endpoint }
    }
}

/// Waits for so many deliveries, and wants no more and all of them signed.
pub async fn received(receiver: &Receiver, count: usize) -> Vec<Delivery> {
    let all = eventually(&format!("{count} deliveries"), SOON, || async {
        let all = receiver.deliveries();
        (all.len() >= count).then_some(all)
    })
    .await;
    assert_eq!(all.len(), count, "{all:#?}");
    assert!(all.iter().all(|d| d.verified), "a signature does not fit: {all:#?}");
    all
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap_or_else(|| panic!("no time: {value}")).parse().unwrap()
}

#[tokio::test]
async fn a_reading_above_the_limit_is_delivered_signed_and_one_below_clears_it() {
    let scene = Scene::new().await;
    let measured = scene.hospital.measure("101", 130.0).await;
    let raised = received(&scene.receiver, 1).await.remove(0);
    let body = &raised.body;
    let expect = json!({
        "type": "HIGH_HEART_RATE", "patientId": "101", "event": "HIGH_HEART_RATE", "value": 130,
        "unit": "/min", "state": "raised", "rule": "high-heart-rate", "ruleVersion": 1,
        "priority": "high", "deviceId": "watch-7",
    });
    for (key, value) in expect.as_object().unwrap() {
        assert_eq!(&body[key], value, "{key} of {body}");
    }
    assert_eq!(time(&body["measuredAt"]), measured);
    assert!(time(&body["timestamp"]) >= measured && time(&body["timestamp"]) <= now());
    assert!((now().timestamp() - raised.timestamp).abs() < 60, "{}", raised.timestamp);
    let id = body["alertId"].as_str().unwrap();
    uuid::Uuid::parse_str(id).unwrap();
    for (link, path) in [
        ("alert", format!("/api/v1/alerts/{id}")),
        ("ack", format!("/api/v1/alerts/{id}/ack")),
        ("patient", "/api/v1/patients/101".to_owned()),
    ] {
        let found = body["_links"][link].as_str().unwrap();
        // The acknowledging link carries its own permission.
        let found = found.split('?').next().unwrap();
        assert!(found.ends_with(&path), "{link}: {found}");
    }
    let alert = scene.hospital.found(&format!("/alerts/{id}")).await;
    assert_eq!((&alert["state"], &alert["value"]), (&json!("active"), &json!(130)));

    // At the limit and above it nothing new happens; the first below clears.
    scene.hospital.measure("101", 125.0).await;
    scene.hospital.measure("101", 110.0).await;
    let cleared = received(&scene.receiver, 2).await.remove(1);
    assert_eq!(cleared.body["state"], "cleared");
    assert_eq!(cleared.body["value"], 110);
    assert_eq!(cleared.body["alertId"], id);
    assert_ne!(cleared.id, raised.id);
}

#[tokio::test]
async fn a_reading_at_the_limit_does_not_page_and_clears() {
    let scene = Scene::new().await;
    for value in [120.0, 120.5, 120.0] {
        scene.hospital.measure("101", value).await;
    }
    let all = received(&scene.receiver, 2).await;
    let mut said: Vec<_> =
        all.iter().map(|d| (d.body["value"].as_f64().unwrap(), d.body["state"].clone())).collect();
    // They were on their way at the same time.
    said.sort_by(|a, b| b.0.total_cmp(&a.0));
    assert_eq!(said, [(120.5, json!("raised")), (120.0, json!("cleared"))]);
}

#[tokio::test]
async fn a_failed_delivery_is_tried_again_under_the_same_id_when_it_was_asked_to() {
    let scene = Scene::new().await;
    scene.receiver.answer_next([Answer::Status(500), Answer::RetryAfter(503, 4)]);
    scene.hospital.measure("101", 130.0).await;
    let tries = received(&scene.receiver, 3).await;
    for again in &tries[1..] {
        assert_eq!((&again.id, &again.body), (&tries[0].id, &tries[0].body));
        assert!(again.timestamp >= tries[0].timestamp, "the time of the attempt is signed");
    }
    // The schedule says within 1 s and within 2 s; Retry-After is a minimum.
    let (first, second) = (tries[1].at - tries[0].at, tries[2].at - tries[1].at);
    assert!(first > Duration::from_millis(90), "{first:?}");
    assert!(second > Duration::from_millis(3_900), "{second:?}");

    let delivery = eventually("the last attempt to be recorded", SOON, || async {
        let deliveries = scene.hospital.deliveries(&scene.endpoint).await;
        assert_eq!(deliveries.len(), 1);
        (deliveries[0]["state"] == "delivered").then(|| deliveries[0].clone())
    })
    .await;
    assert_eq!(delivery["attempts"], 3);
    let path = format!("/deliveries/{}", delivery["id"].as_str().unwrap());
    let delivery = scene.hospital.found(&path).await;
    let statuses: Vec<&Value> =
        delivery["log"].as_array().unwrap().iter().map(|a| &a["status"]).collect();
    assert_eq!(statuses, [500, 503, 204]);
    assert!(delivery["log"][0]["latencyMs"].is_u64());
    assert_eq!(delivery["body"], tries[0].body);
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled_and_that_is_an_event() {
    let scene = Scene::new().await;
    let path = format!("/webhooks/{}", scene.endpoint);
    scene.receiver.answer_next([Answer::Status(410)]);
    scene.hospital.measure("101", 130.0).await;
    let endpoint = eventually("the endpoint to be disabled", SOON, || async {
        let endpoint = scene.hospital.found(&path).await;
        (endpoint["state"] == "disabled").then_some(endpoint)
    })
    .await;
    assert!(endpoint["reason"].as_str().unwrap().contains("410"), "{endpoint}");
    let events: Vec<(String, String, String)> = sqlx::query_as(
        "select tenant, patient_id, data ->> 'endpointId' from event where type = 'ENDPOINT_DISABLED'",
    )
    .fetch_all(&scene.database.pool())
    .await
    .unwrap();
    assert_eq!(events, [("ward".to_owned(), "_tenant".to_owned(), scene.endpoint.clone())]);

    // Nothing goes there, until its owner says that it is back.
    let (witness, other) = (Receiver::start().await, "102");
    scene.hospital.endpoint(&witness, &["*"]).await;
    scene.hospital.measure("101", 100.0).await;
    scene.hospital.measure(other, 130.0).await;
    received(&witness, 2).await;
    assert_eq!(received(&scene.receiver, 1).await.len(), 1);
    let (status, endpoint) = scene.hospital.patch(&path, &json!({ "state": "active" })).await;
    assert_eq!((status, &endpoint["reason"]), (200, &Value::Null), "{endpoint}");
    scene.hospital.measure(other, 100.0).await;
    let all = received(&scene.receiver, 2).await;
    assert_eq!(
        (&all[1].body["patientId"], &all[1].body["state"]),
        (&json!(other), &json!("cleared"))
    );
}

#[tokio::test]
async fn an_endpoint_that_hangs_does_not_hold_anothers_deliveries() {
    // More than the attempts that one endpoint may have under way.
    const PATIENTS: usize = 40;
    let scene = Scene::new().await;
    let hanging = Receiver::start().await;
    hanging.answer_always(Answer::Hang);
    scene.hospital.endpoint(&hanging, &["*"]).await;
    for wave in 0..4 {
        let patients = (0..PATIENTS / 4).map(|n| format!("p{wave}-{n}"));
        let readings: Vec<Value> = patients.map(|p| heart_rate(&p, 130.0, now())).collect();
        let sent = std::time::Instant::now();
        scene.hospital.store(&readings).await;
        let all = received(&scene.receiver, (wave + 1) * PATIENTS / 4).await;
        // Less than the timeout: nobody had to wait for a slot to come free.
        let slowest = all.last().unwrap().at - sent;
        assert!(slowest < Duration::from_secs(4), "wave {wave}: {slowest:?}");
    }
    let stuck = hanging.deliveries().len();
    assert!((1..PATIENTS).contains(&stuck), "{stuck} attempts under way to one endpoint");
    // And when it answers again, it gets everything.
    hanging.answer_always(Answer::Status(200));
    eventually("everything that hung", Duration::from_secs(40), || async {
        let ids = hanging.deliveries().into_iter().map(|d| d.id);
        (ids.collect::<std::collections::HashSet<_>>().len() == PATIENTS).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_gets_the_events_that_it_named() {
    let scene = Scene::new().await;
    let [low, both, all] = [(); 3].map(|()| Receiver::start());
    let (low, both, all) = (low.await, both.await, all.await);
    let unconcerned = scene.hospital.endpoint(&low, &["LOW_SPO2"]).await;
    scene.hospital.endpoint(&both, &["LOW_SPO2", "HIGH_HEART_RATE"]).await;
    scene.hospital.endpoint(&all, &["*"]).await;
    scene.hospital.measure("101", 130.0).await;
    let mut ids = Vec::new();
    for receiver in [&scene.receiver, &both, &all] {
        ids.push(received(receiver, 1).await.remove(0).id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "the same alert has the same id wherever it goes");
    // All rows of an alert are made at once, so there is none for it.
    assert_eq!(scene.hospital.deliveries(&unconcerned).await, Vec::<Value>::new());
    received(&low, 0).await;
}

#[tokio::test]
async fn suspect_and_late_readings_page_nobody_and_the_late_one_is_recorded_as_missed() {
    let scene = Scene::new().await;
    let all = Receiver::start().await;
    scene.hospital.endpoint(&all, &["*"]).await;
    for (patient, value, ago) in
        [("fell-off", 0.0, 0), ("noise", 310.0, 0), ("late", 131.0, 600), ("late", 132.0, 500)]
    {
        let ago = TimeDelta::seconds(ago);
        scene.hospital.measured_before(patient, value, ago).await;
    }
    let patients = ["fell-off", "noise", "late"];
    join_all(patients.map(|patient| scene.hospital.measure(patient, 140.0))).await;
    for receiver in [&scene.receiver, &all] {
        let all = received(receiver, 3).await;
        assert!(all.iter().all(|d| d.body["value"] == 140 && d.body["state"] == "raised"));
    }
    let missed = scene.hospital.found("/alerts?state=missed").await;
    let missed = missed["items"].as_array().unwrap();
    assert_eq!(missed.len(), 1, "once for the episode: {missed:#?}");
    assert_eq!((&missed[0]["patientId"], &missed[0]["value"]), (&json!("late"), &json!(131)));
    let suspect = scene.hospital.found("/patients/noise/readings?vital=heart_rate").await;
    let qualities: Vec<&Value> =
        suspect["items"].as_array().unwrap().iter().map(|r| &r["quality"]).collect();
    assert!(qualities.contains(&&json!("suspect")) && qualities.contains(&&json!("good")));
}

#[tokio::test]
async fn a_paused_endpoint_gets_what_waited_when_it_goes_on() {
    let scene = Scene::new().await;
    let path = format!("/webhooks/{}", scene.endpoint);
    let witness = Receiver::start().await;
    scene.hospital.endpoint(&witness, &["*"]).await;
    let (status, endpoint) = scene.hospital.patch(&path, &json!({ "state": "paused" })).await;
    assert_eq!((status, &endpoint["state"]), (200, &json!("paused")));
    scene.hospital.measure("101", 130.0).await;
    scene.hospital.measure("101", 100.0).await;
    received(&witness, 2).await;
    let waiting = scene.hospital.deliveries(&scene.endpoint).await;
    assert_eq!(waiting.len(), 2);
    assert!(waiting.iter().all(|d| d["state"] == "pending" && d["attempts"] == 0), "{waiting:?}");
    received(&scene.receiver, 0).await;
    scene.hospital.patch(&path, &json!({ "state": "active" })).await;
    received(&scene.receiver, 2).await;
}

#[tokio::test]
async fn tenants_are_apart() {
    let scene = Scene::new().await;
    let (theirs, inbox) = (Hospital::new(&scene.server, "other"), Receiver::start().await);
    let endpoint = theirs.endpoint(&inbox, &["*"]).await;
    scene.hospital.measure("101", 130.0).await;
    received(&scene.receiver, 1).await;
    assert_eq!(theirs.deliveries(&endpoint).await, Vec::<Value>::new());
    received(&inbox, 0).await;

    let delivery = scene.hospital.deliveries(&scene.endpoint).await.remove(0);
    let delivery = format!("/deliveries/{}", delivery["id"].as_str().unwrap());
    let webhook = format!("/webhooks/{}", scene.endpoint);
    let nowhere = "/webhooks/00000000-0000-7000-8000-000000000000";
    let (_, mut missing) = theirs.get(nowhere).await;
    for (status, mut answer) in [
        theirs.get(&webhook).await,
        theirs.patch(&webhook, &json!({ "state": "paused" })).await,
        theirs.delete(&webhook).await,
        theirs.get(&format!("{webhook}/deliveries")).await,
    ] {
        assert_eq!(status, 404, "{answer}");
        // Exactly like one that does not exist.
        for body in [&mut answer, &mut missing] {
            body.as_object_mut().unwrap().remove("instance");
        }
        assert_eq!(answer, missing);
    }
    assert_eq!(theirs.get(&delivery).await.0, 404);
    let listed = theirs.found("/webhooks").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(scene.hospital.found(&webhook).await["state"], "active");
}
