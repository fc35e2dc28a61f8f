//! Two hospitals on one server: neither can tell that the other exists.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::http::{Answer, get, send};
use crate::support::postgres::Database;
use crate::support::receiver::Receiver;
use crate::support::server::Server;

const SOON: Duration = Duration::from_secs(20);
const NO_ID: &str = "00000000-0000-4000-8000-000000000000";

/// What one hospital has: a patient, an alert, an endpoint and a delivery.
struct Owned {
    alert: String,
    webhook: String,
    delivery: String,
}

async fn fill(hospital: &Hospital, receiver: &Receiver, patient: &str) -> Owned {
    let webhook = hospital.endpoint(receiver, &["*"]).await;
    hospital.measure(patient, 130.0).await;
    let delivery = eventually("a delivery", SOON, async || {
        let deliveries = hospital.deliveries(&webhook).await;
        deliveries.into_iter().find(|delivery| delivery["state"] == "delivered")
    })
    .await;
    let alerts = hospital.found(&format!("/alerts?patientId={patient}")).await;
    let id = |value: &Value| value["id"].as_str().expect("an id").to_owned();
    Owned { alert: id(&alerts["items"][0]), webhook, delivery: id(&delivery) }
}

async fn ask(hospital: &Hospital, method: &str, path: &str) -> (u16, String) {
    let method: Method = method.parse().unwrap();
    let request = hospital.request(method.clone(), path);
    let request = match method {
        Method::GET | Method::DELETE => request,
        _ if path.ends_with("/ack") => request.json(&json!({ "by": "nurse" })),
        _ => request.json(&json!({ "description": "mine" })),
    };
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn what_is_another_tenants_answers_like_what_does_not_exist() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (ours, theirs) = (Hospital::new(&server, "ours"), Hospital::new(&server, "theirs"));
    let receiver = Receiver::start().await;
    let owned = fill(&theirs, &receiver, "101").await;
    let before = theirs.found(&format!("/webhooks/{}", owned.webhook)).await;

    let questions = [
        ("GET", "/patients/{}", "101", "nobody"),
        ("GET", "/patients/{}?asOf=2030-01-01T00:00:00Z", "101", "nobody"),
        ("GET", "/patients/{}?knownAt=2030-01-01T00:00:00Z", "101", "nobody"),
        ("GET", "/patients/{}/heart-rate", "101", "nobody"),
        ("GET", "/patients/{}/readings", "101", "nobody"),
        ("GET", "/patients/{}/readings?vital=heart_rate&every=1m", "101", "nobody"),
        ("GET", "/patients/{}/replay?speed=max", "101", "nobody"),
        ("GET", "/alerts?patientId={}", "101", "nobody"),
        ("GET", "/alerts/{}", &owned.alert, NO_ID),
        ("POST", "/alerts/{}/ack", &owned.alert, NO_ID),
        ("GET", "/webhooks/{}", &owned.webhook, NO_ID),
        ("PATCH", "/webhooks/{}", &owned.webhook, NO_ID),
        ("GET", "/webhooks/{}/deliveries", &owned.webhook, NO_ID),
        ("GET", "/deliveries/{}", &owned.delivery, NO_ID),
        ("DELETE", "/webhooks/{}", &owned.webhook, NO_ID),
    ];
    for (method, path, existing, nothing) in questions {
        let (status, body) = ask(&ours, method, &path.replace("{}", existing)).await;
        let expected = ask(&ours, method, &path.replace("{}", nothing)).await;
        // The id that was asked for may come back, nothing else may differ.
        let body = body.replace(existing, nothing);
        assert_eq!((status, &body), (expected.0, &expected.1), "{method} {path}");
        if !path.starts_with("/alerts?") {
            assert_eq!(status, 404, "{method} {path}: {body}");
        }
    }
    // And nothing of it has happened.
    assert_eq!(theirs.found(&format!("/webhooks/{}", owned.webhook)).await, before);
    let alert = theirs.found(&format!("/alerts/{}", owned.alert)).await;
    assert_eq!(alert["acknowledged"], Value::Null);
}

#[tokio::test]
async fn lists_hold_only_ones_own() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (ours, theirs) = (Hospital::new(&server, "ours"), Hospital::new(&server, "theirs"));
    let receiver = Receiver::start().await;
    fill(&theirs, &receiver, "101").await;
    for path in ["/patients", "/alerts", "/alerts?state=active", "/webhooks"] {
        assert_eq!(ours.found(path).await["items"], json!([]), "{path}");
    }
    // A patient of the same name is another patient, their reading another reading.
    let at = now();
    ours.store(&[heart_rate("101", 61.0, at)]).await;
    theirs.store(&[heart_rate("101", 62.0, at)]).await;
    for (hospital, value) in [(&ours, 61), (&theirs, 62)] {
        assert_eq!(hospital.found("/patients/101/heart-rate").await["heartRate"], value);
    }
    assert_eq!(ours.found("/patients/101").await["alerts"], json!([]));
    assert_eq!(ours.found("/patients/101/readings").await["items"].as_array().unwrap().len(), 1);
    let moved = ours.request(Method::PUT, "/patients/101").json(&json!({ "ward": "ours-4B" }));
    assert_eq!(moved.send().await.unwrap().status(), 200);
    assert_eq!(theirs.found("/patients?ward=ours-4B").await["items"], json!([]));
    // The cursor of one list is a place in it, and opens nothing else.
    let page = theirs.found("/alerts?limit=1").await;
    let cursor = page["next"].as_str().expect("a full page has a next");
    let rest = ours.found(&format!("/alerts?limit=1&cursor={cursor}")).await;
    assert_eq!(rest["items"], json!([]));
}

#[tokio::test]
async fn an_alert_goes_to_the_endpoints_of_its_own_tenant() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (ours, theirs) = (Hospital::new(&server, "ours"), Hospital::new(&server, "theirs"));
    let (our_receiver, their_receiver) = (Receiver::start().await, Receiver::start().await);
    ours.endpoint(&our_receiver, &["*"]).await;
    fill(&theirs, &their_receiver, "their-patient").await;
    // Ours comes after theirs: what was wrongly sent would be here by then.
    ours.measure("our-patient", 140.0).await;
    let delivered = eventually("our own alert", SOON, async || {
        let deliveries = our_receiver.deliveries();
        (!deliveries.is_empty()).then_some(deliveries)
    })
    .await;
    for delivery in &delivered {
        assert_eq!(delivery.body["patientId"], "our-patient");
    }
    for delivery in their_receiver.deliveries() {
        assert_eq!(delivery.body["patientId"], "their-patient");
    }
}

/// The stream's text until `until` is in it.
async fn stream_until(hospital: &Hospital, place: Option<&str>, until: &str) -> String {
    let request = hospital.request(Method::GET, "/stream");
    let request =
        place.iter().fold(request, |request, place| request.header("last-event-id", *place));
    let mut bytes = request.send().await.unwrap().bytes_stream();
    let mut text = String::new();
    while !text.contains(until) {
        let part = tokio::time::timeout(SOON, bytes.next()).await.expect("a silent stream");
        text += std::str::from_utf8(&part.expect("more").unwrap()).unwrap();
    }
    text
}

#[tokio::test]
async fn the_stream_carries_only_ones_own_also_from_the_beginning() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (ours, theirs) = (Hospital::new(&server, "ours"), Hospital::new(&server, "theirs"));
    for i in 0..20 {
        theirs.measure(&format!("their-{i}"), 130.0).await;
    }
    ours.measure("our-first", 80.0).await;
    // A place is one position for each shard of a history; these are all at the beginning.
    let log = database.log().await;
    let zeros = vec!["0"; log.shards().count()].join("-");
    let beginning = format!("{}.{zeros}", log.incarnations().number());
    let text = stream_until(&ours, Some(&beginning), "our-first").await;
    assert!(!text.contains("their-"), "{text}");

    // Live, with both writing all the time until what is ours has come.
    let writing = tokio::spawn({
        let (ours, theirs) = (ours.clone(), theirs.clone());
        async move {
            loop {
                theirs.measure("their-live", 130.0).await;
                ours.measure("our-live", 80.0).await;
            }
        }
    });
    let text = stream_until(&ours, None, "our-live").await;
    writing.abort();
    assert!(!text.contains("their-"), "{text}");
}

#[tokio::test]
async fn what_operators_and_strangers_see_names_nobody() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-of-x");
    let receiver = Receiver::start().await;
    let owned = fill(&hospital, &receiver, "patient-of-x").await;
    for path in ["/metrics", "/health/ready", "/health/live", "/api/v1/patients/patient-of-x"] {
        let Answer { text, .. } = get(&server.url(path), "").await;
        let what = text.replace(path, "");
        for name in ["hospital-of-x", "patient-of-x", &owned.webhook, &owned.alert] {
            assert!(!what.contains(name), "{path}: {what}");
        }
    }
    // A device that writes for another tenant's patient writes for its own.
    let token = server.token_with(|claims| {
        claims["tenant"] = "other".into();
        claims["scope"] = "readings:write".into();
        claims["patient"] = "patient-of-x".into();
    });
    let body = heart_rate("patient-of-x", 61.0, now()).to_string();
    let url = server.url("/api/v1/readings");
    assert_eq!(send(Method::POST, &url, &token, Some(body.into())).await.status, 201);
    assert_eq!(hospital.found("/patients/patient-of-x/heart-rate").await["heartRate"], 130);
}
