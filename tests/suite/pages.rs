//! Pages over crashes: every alert of the log reaches its endpoint, and nothing
//! that the log does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::postgres::{Database, caught_up};
use crate::support::receiver::{Answer, Receiver};
use crate::support::server::Server;

/// An attempt that died with its process is made again when its lease ends, and
/// failed ones at growing distances.
const DELIVERED_AT_LAST: Duration = Duration::from_secs(75);
const SOON: Duration = Duration::from_secs(30);

/// Alert id and state: what a receiver has to hear of.
type Page = (String, String);

/// Sends 130 for one patient after the other until the program is gone; those
/// whose reading was acknowledged.
async fn raise(hospital: Hospital, name: String, count: Arc<AtomicUsize>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let patient = format!("{name}-{n}");
        // Every third one comes down again at once.
        let values = if n % 3 == 0 { vec![130.0, 90.0] } else { vec![130.0] };
        for value in values {
            let reading = heart_rate(&patient, value, now());
            let request = hospital.request(Method::POST, "/readings").json(&reading);
            match request.send().await.map(|answer| answer.status().as_u16()) {
                Ok(201) => count.fetch_add(1, Ordering::Relaxed),
                Ok(503) | Err(_) => return acknowledged,
                Ok(other) => panic!("answered {other}"),
            };
            if value > 120.0 {
                acknowledged.push(patient.clone());
            }
        }
    }
    acknowledged
}

/// Two clients, and a kill as soon as so many readings were acknowledged: most of
/// their pages are still to be made, claimed, sent or recorded.
async fn raise_and_kill(
    server: Server,
    hospital: &Hospital,
    round: usize,
    acknowledged: usize,
) -> Vec<String> {
    let (count, mut sending) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for client in 0..2 {
        let name = format!("r{round}-c{client}");
        sending.spawn(raise(hospital.clone(), name, count.clone()));
    }
    eventually("readings to be acknowledged", SOON, || async {
        (count.load(Ordering::Relaxed) >= acknowledged).then_some(())
    })
    .await;
    server.kill().await;
    sending.join_all().await.concat()
}

/// The alerts of the log: whose, id and state.
async fn alerts(pool: &PgPool) -> Vec<(String, String, String)> {
    sqlx::query_as(
        "select patient_id, data ->> 'alertId', data ->> 'state' from event \
         where type = 'HIGH_HEART_RATE' order by shard, position",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

/// What was received, by webhook id. The same id always says the same.
fn pages(receiver: &Receiver) -> BTreeMap<String, Page> {
    let mut pages: BTreeMap<String, (Page, Value)> = BTreeMap::new();
    for delivery in receiver.deliveries() {
        assert!(delivery.verified, "{delivery:?}");
        let text = |key: &str| delivery.body[key].as_str().unwrap().to_owned();
        let page = (text("alertId"), text("state"));
        let known = pages.entry(delivery.id).or_insert((page, delivery.body.clone()));
        assert_eq!(known.1, delivery.body);
    }
    pages.into_iter().map(|(id, (page, _))| (id, page)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_alert_is_delivered_although_the_server_is_killed_before_during_and_after_it() {
    let database = Database::new().await;
    let pool = database.pool();
    let receiver = Receiver::start().await;
    let mut server = Server::start(&database).await;
    let mut hospital = Hospital::new(&server, "ward");
    let endpoint = hospital.endpoint(&receiver, &["HIGH_HEART_RATE"]).await;
    let mut acknowledged = Vec::new();
    // The receiver takes everything, then refuses, then does not answer at all.
    for (round, answer) in
        [Answer::Status(204), Answer::Status(503), Answer::Hang].into_iter().enumerate()
    {
        receiver.answer_always(answer);
        acknowledged.extend(raise_and_kill(server, &hospital, round, 25).await);
        server = Server::start(&database).await;
        hospital = hospital.after_restart(&server);
    }
    receiver.answer_always(Answer::Status(204));
    caught_up(&pool).await;

    let alerts = alerts(&pool).await;
    // Every acknowledged reading above the limit raised exactly one alert.
    let raised: Vec<&String> =
        alerts.iter().filter(|(_, _, state)| state == "raised").map(|(p, ..)| p).collect();
    let patients: BTreeSet<&String> = raised.iter().copied().collect();
    assert_eq!(patients.len(), raised.len(), "a patient was raised twice");
    assert!(acknowledged.iter().all(|patient| patients.contains(patient)));
    let expected: BTreeSet<Page> =
        alerts.iter().map(|(_, id, state)| (id.clone(), state.clone())).collect();
    assert_eq!(expected.len(), alerts.len());
    assert!(expected.len() > 60, "{} alerts", expected.len());

    let received = eventually("every alert to be delivered", DELIVERED_AT_LAST, || async {
        let received = pages(&receiver);
        (received.len() >= expected.len()).then_some(received)
    })
    .await;
    // As many ids as alerts, and each alert under one: exactly those of the log.
    assert_eq!(received.len(), expected.len());
    assert_eq!(received.into_values().collect::<BTreeSet<_>>(), expected);
    eventually("every delivery to be recorded", DELIVERED_AT_LAST, || async {
        let deliveries = hospital.deliveries(&endpoint).await;
        assert_eq!(deliveries.len(), expected.len());
        deliveries.iter().all(|d| d["state"] == "delivered").then_some(())
    })
    .await;
}
