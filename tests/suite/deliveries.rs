//! Numbers, order, superseding, and several instances: what a receiver can rely on.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;
use vitals::event::{AlertData, AlertEventKind, Event, Priority};
use vitals::log::Log;
use vitals::vital::Vital;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::receiver::{Answer, Receiver};
use crate::support::server::Server;
use crate::webhooks::received;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_numbers_of_an_endpoint_have_no_gap_and_prove_that_nothing_was_missed() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let receiver = Receiver::start().await;
    let endpoint = hospital.endpoint(&receiver, &["*"]).await;
    // Of all shards at once.
    for wave in 0..4 {
        let patients = (0..25).map(|n| format!("p{wave}-{n}"));
        let readings: Vec<Value> = patients.map(|p| heart_rate(&p, 130.0, now())).collect();
        hospital.store(&readings).await;
    }
    let all = received(&receiver, 100).await;
    let numbers: BTreeSet<i64> = all.iter().map(|d| d.sequence).collect();
    assert_eq!(numbers, (1..=100).collect());
    // The list says the same: 40 of them at once, from where the receiver stands.
    let path = format!("/webhooks/{endpoint}/events");
    let first = hospital.found(&format!("{path}?after=30&limit=40")).await;
    assert_eq!(first["last"], 100);
    let next = first["_links"]["next"].as_str().unwrap().strip_prefix("/api/v1").unwrap();
    let second = hospital.found(next).await;
    let mut listed = Vec::new();
    for page in [&first, &second] {
        for item in page["items"].as_array().unwrap() {
            let number = item["sequence"].as_i64().unwrap();
            let sent = all.iter().find(|d| d.sequence == number).unwrap();
            assert_eq!((&item["webhookId"], &item["body"]), (&json!(sent.id), &sent.body));
            listed.push(number);
        }
    }
    assert_eq!(listed, (31..=70).chain(71..=100).collect::<Vec<_>>());
    let theirs = Hospital::new(&server, "other");
    assert_eq!(theirs.get(&path).await.0, 404);
    assert_eq!(hospital.get(&format!("{path}?after=-1")).await.0, 400);
}

#[tokio::test]
async fn an_endpoint_that_wants_order_gets_an_alert_in_order() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let receiver = Receiver::start().await;
    hospital.endpoint_with(&receiver, json!({ "ordered": true })).await;
    receiver.answer_next([Answer::Status(500), Answer::Status(500)]);
    hospital.measure("101", 130.0).await;
    hospital.measure("101", 100.0).await;
    let tries = received(&receiver, 4).await;
    let states: Vec<&Value> = tries.iter().map(|d| &d.body["state"]).collect();
    assert_eq!(states, ["raised", "raised", "raised", "cleared"]);
}

/// An alert event of a low rule.
fn low(alert_id: Uuid, state: AlertEventKind, value: f64) -> Event {
    let data = AlertData {
        v: 1,
        alert_id,
        state,
        rule: "restless".into(),
        rule_version: 1,
        event: "RESTLESS".into(),
        priority: Priority::Low,
        vital: Vital::HeartRate,
        value,
        unit: "/min".into(),
        measured_at: now(),
        device_id: "watch-7".into(),
        reading_position: 1,
        since: now(),
        nth: None,
        by: None,
        silent_device: None,
        silenced_by: None,
        because: None,
        traceparent: None,
        tracestate: None,
    };
    Event {
        tenant: "ward".into(),
        patient_id: "101".into(),
        kind: "RESTLESS".into(),
        vital: None,
        value: None,
        quality: None,
        suspect: false,
        occurred_at: now(),
        source_id: "restless".into(),
        data: Some(serde_json::to_string(&data).unwrap()),
    }
}

async fn append(log: &Log, event: Event) {
    let shard = log.shard_of(&event.tenant, &event.patient_id);
    log.append(shard, &[event]).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_is_told_nothing_of_before_it_was_made() {
    let database = Database::new().await;
    let of_role = async |role: &str| {
        let options = ["--allow-webhook-net", "127.0.0.0/8", "--roles", role];
        Server::start_with(&database, &options).await
    };
    let server = of_role("api").await;
    let hospital = Hospital::new(&server, "ward");
    let receiver = Receiver::start().await;
    let log = database.log().await;
    append(&log, low(Uuid::new_v4(), AlertEventKind::Raised, 96.0)).await;
    let endpoint = hospital.endpoint(&receiver, &["*"]).await;
    append(&log, low(Uuid::new_v4(), AlertEventKind::Raised, 97.0)).await;
    // Whoever makes deliveries comes to both only now.
    let _workers = of_role("workers").await;
    let came = received(&receiver, 1).await.remove(0);
    assert_eq!((&came.body["value"], came.sequence), (&json!(97), 1));
    assert_eq!(hospital.deliveries(&endpoint).await.len(), 1);
}

#[tokio::test]
async fn what_clears_a_low_alert_overtakes_what_could_not_be_said_of_it() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let receiver = Receiver::start().await;
    let endpoint = hospital.endpoint(&receiver, &["*"]).await;
    receiver.answer_next([Answer::RetryAfter(503, 5)]);
    let (log, alert) = (database.log().await, Uuid::new_v4());
    append(&log, low(alert, AlertEventKind::Raised, 96.0)).await;
    received(&receiver, 1).await;
    eventually("the attempt to be recorded", SOON, || async {
        let due: Option<f64> = sqlx::query_scalar(
            "select extract(epoch from due_at - clock_timestamp())::float8 from delivery \
             where state = 'pending' and exists (select from attempt)",
        )
        .fetch_optional(&database.pool())
        .await
        .unwrap();
        due.filter(|due| *due < 7.0)
    })
    .await;
    append(&log, low(alert, AlertEventKind::Cleared, 80.0)).await;
    let all = received(&receiver, 2).await;
    assert_eq!(all[1].body["state"], "cleared");
    let deliveries = eventually("both to be finished", SOON, || async {
        let all = hospital.deliveries(&endpoint).await;
        all.iter().all(|d| d["state"] != "pending").then_some(all)
    })
    .await;
    assert_eq!(deliveries[0]["state"], "dead");
    assert!(deliveries[0]["reason"].as_str().unwrap().starts_with("superseded"), "{deliveries:?}");
    assert_eq!(
        (&deliveries[1]["state"], &deliveries[1]["sequence"]),
        (&json!("delivered"), &json!(2))
    );
    received(&receiver, 2).await;
}

#[tokio::test]
async fn two_instances_deliver_everything_once() {
    let database = Database::new().await;
    let servers = [Server::start(&database).await, Server::start(&database).await];
    let hospitals = servers.each_ref().map(|server| Hospital::new(server, "ward"));
    let receivers = [Receiver::start().await, Receiver::start().await];
    for receiver in &receivers {
        hospitals[0].endpoint(receiver, &["*"]).await;
    }
    // The first answers of one are failures, so that retries are shared, too.
    receivers[1].answer_next((0..20).map(|_| Answer::Status(500)));
    for wave in 0..10 {
        for (n, hospital) in hospitals.iter().enumerate() {
            let patients = (0..15).map(|p| format!("w{wave}-{n}-{p}"));
            let readings: Vec<Value> = patients.map(|p| heart_rate(&p, 130.0, now())).collect();
            hospital.store(&readings).await;
        }
    }
    let count = |receiver: &Receiver| {
        let ids = receiver.deliveries().into_iter().map(|d| d.id);
        ids.collect::<BTreeSet<String>>().len()
    };
    eventually("everything to arrive", Duration::from_secs(40), || async {
        receivers.iter().all(|receiver| count(receiver) == 300).then_some(())
    })
    .await;
    eventually("everything to be recorded", SOON, || async {
        let pending: i64 =
            sqlx::query_scalar("select count(*) from delivery where state = 'pending'")
                .fetch_one(&database.pool())
                .await
                .unwrap();
        (pending == 0).then_some(())
    })
    .await;
    assert_eq!(receivers[0].deliveries().len(), 300, "no delivery twice");
    assert_eq!(receivers[1].deliveries().len(), 320, "only what failed was sent again");
}
