//! Endpoints that do not take what they are sent: who is told in their place, and what
//! becomes of what waits.

use std::time::Duration;

use serde_json::{Value, json};
use vitals::delivery::breaker;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::receiver::{Answer, Delivery, Receiver};
use crate::support::rogue::{Manner, Rogue};
use crate::support::server::Server;

const SOON: Duration = Duration::from_secs(20);

/// What came to a receiver about alerts, or about endpoints.
fn about(receiver: &Receiver, event: &str) -> Vec<Delivery> {
    let all = receiver.deliveries().into_iter();
    all.filter(|d| d.body["type"] == event).inspect(|d| assert!(d.verified, "{d:?}")).collect()
}

async fn first_about(receiver: &Receiver, event: &str) -> Delivery {
    eventually(&format!("{event} to arrive"), SOON, || async {
        about(receiver, event).into_iter().next()
    })
    .await
}

async fn events(database: &Database, kind: &str) -> Vec<Value> {
    sqlx::query_scalar::<_, sqlx::types::Json<Value>>(
        "select data::jsonb from event where type = $1 order by position",
    )
    .bind(kind)
    .fetch_all(&database.pool())
    .await
    .unwrap()
    .into_iter()
    .map(|data| data.0)
    .collect()
}

#[tokio::test]
async fn a_high_alarm_goes_to_the_fallback_when_its_endpoint_fails_and_waits_for_it_too() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let (receiver, fallback) = (Receiver::start().await, Receiver::start().await);
    receiver.answer_always(Answer::Status(500));
    let endpoint = hospital.endpoint(&receiver, &["HIGH_HEART_RATE"]).await;
    let options = json!({ "fallback": true, "events": [] });
    hospital.endpoint_with(&fallback, options).await;
    hospital.measure("101", 130.0).await;

    let page = first_about(&fallback, "HIGH_HEART_RATE").await;
    let notice = first_about(&fallback, "ENDPOINT_UNREACHABLE").await;
    assert_eq!(notice.body["endpointId"], endpoint.as_str());
    assert!(notice.body["reason"].as_str().unwrap().contains("500"), "{notice:?}");
    // It came after three attempts or more, since failures of less than half a second are not
    // enough, and as the same message.
    assert!(about(&receiver, "HIGH_HEART_RATE").len() >= 3);
    assert_eq!(
        (&page.id, &page.body),
        (&receiver.deliveries()[0].id, &receiver.deliveries()[0].body)
    );
    // What comes while it is broken goes there at once.
    hospital.measure("102", 131.0).await;
    eventually("the second page", SOON, || async {
        (about(&fallback, "HIGH_HEART_RATE").len() == 2).then_some(())
    })
    .await;

    // It is back: a probe finds that out, and nothing was lost.
    receiver.answer_always(Answer::Status(204));
    eventually("both to be delivered", SOON, || async {
        let all = hospital.deliveries(&endpoint).await;
        assert_eq!(all.len(), 2);
        all.iter().all(|d| d["state"] == "delivered").then_some(())
    })
    .await;
    first_about(&fallback, "ENDPOINT_REACHABLE").await;
    assert_eq!(events(&database, "ENDPOINT_UNREACHABLE").await.len(), 1, "said once");
    assert_eq!(events(&database, "ENDPOINT_UNREACHABLE").await[0]["handedOver"], 1);
    assert_eq!(events(&database, "ENDPOINT_REACHABLE").await.len(), 1);
    hospital.measure("103", 132.0).await;
    eventually("the third page where it belongs", SOON, || async {
        let pages = about(&receiver, "HIGH_HEART_RATE");
        pages.iter().any(|d| d.body["patientId"] == "103").then_some(())
    })
    .await;
    assert_eq!(about(&fallback, "HIGH_HEART_RATE").len(), 2, "and not to the fallback");
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_seen_in_its_state_in_health_and_by_the_page() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let receiver = Receiver::start().await;
    let endpoint = hospital.endpoint(&receiver, &["*"]).await;
    let path = format!("/webhooks/{endpoint}");
    let warnings = async || {
        let ready = reqwest::get(server.url("/health/ready")).await.unwrap();
        assert_eq!(ready.status(), 200);
        ready.json::<Value>().await.unwrap()["warnings"].to_string()
    };
    let shown = hospital.found(&path).await;
    assert_eq!((&shown["state"], &shown["breaker"]), (&json!("active"), &Value::Null), "{shown}");
    assert!(!warnings().await.contains("webhook"));
    receiver.answer_always(Answer::Status(500));
    hospital.measure("101", 130.0).await;
    let broken = eventually("the breaker to open", SOON, || async {
        let shown = hospital.found(&path).await;
        (!shown["breaker"].is_null()).then_some(shown)
    })
    .await;
    assert_eq!(broken["state"], "active", "{broken}");
    let breaker = &broken["breaker"];
    assert!(["open", "half_open"].contains(&breaker["state"].as_str().unwrap()), "{breaker}");
    assert!(breaker["reason"].as_str().unwrap().contains("500"), "{breaker}");
    assert!(breaker["since"].is_string() && breaker["until"].is_string(), "{breaker}");
    let listed = hospital.found("/webhooks").await;
    assert_eq!(listed["items"][0]["breaker"]["reason"], breaker["reason"], "{listed}");
    // What the ward's page shows as a band.
    let warned = warnings().await;
    assert!(warned.contains("1 webhook") && warned.contains("/api/v1/webhooks"), "{warned}");
    // Nobody else's business.
    assert_eq!(Hospital::new(&server, "other").found("/webhooks").await["items"], json!([]));
    receiver.answer_always(Answer::Status(204));
    eventually("the breaker to close", SOON, || async {
        hospital.found(&path).await["breaker"].is_null().then_some(())
    })
    .await;
    assert!(!warnings().await.contains("webhook"));
}

#[tokio::test]
async fn a_fallback_outside_the_hospital_is_told_no_patient_and_no_value_in_anothers_place() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let (receiver, outside) = (Receiver::start().await, Receiver::start().await);
    receiver.answer_always(Answer::Status(500));
    hospital.endpoint(&receiver, &["HIGH_HEART_RATE"]).await;
    let options = json!({ "fallback": true, "payload": "thin", "events": [] });
    hospital.endpoint_with(&outside, options).await;
    // The first is handed over by the breaker, the second finds it open.
    for patient in ["hidden-1", "hidden-2"] {
        hospital.measure(patient, 133.5).await;
        let page = eventually("the page in its place", SOON, || async {
            let pages = about(&outside, "HIGH_HEART_RATE");
            let all = about(&receiver, "HIGH_HEART_RATE").into_iter();
            let meant = all.filter(|d| d.body["patientId"] == patient).map(|d| d.id).next()?;
            pages.into_iter().find(|page| page.id == meant)
        })
        .await;
        assert!(page.body["_links"]["alert"].is_string(), "{}", page.text);
        for hidden in ["hidden", "133.5", "watch-7"] {
            assert!(!page.text.contains(hidden), "{hidden} in {}", page.text);
        }
    }
}

#[tokio::test]
async fn who_asks_a_high_alarm_to_wait_long_is_stood_in_for_at_once_and_in_nothing_less() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let [receiver, fallback, bystander] = [(); 3].map(|()| Receiver::start());
    let (receiver, fallback, bystander) = (receiver.await, fallback.await, bystander.await);
    receiver.answer_always(Answer::RetryAfter(503, 600));
    let endpoint = hospital.endpoint(&receiver, &["*"]).await;
    let options = json!({ "fallback": true, "events": [] });
    let stands_in = hospital.endpoint_with(&fallback, options).await;
    let bystander = hospital.endpoint(&bystander, &["LOW_SPO2"]).await;
    let medium = json!({
        "id": "mine", "event": "MINE", "priority": "medium", "mode": "active",
        "when": { "vital": "heart_rate", "op": ">", "value": 90 },
    });
    let put = hospital.request(reqwest::Method::PUT, "/rules/mine").json(&medium);
    assert_eq!(put.send().await.unwrap().status(), 200);
    hospital.measure("101", 100.0).await;
    first_about(&receiver, "MINE").await;
    hospital.measure("101", 130.0).await;
    first_about(&fallback, "HIGH_HEART_RATE").await;
    // What is open is not opened once more by who comes late, and not for longer.
    let (log, id) = (database.log().await, endpoint.parse().unwrap());
    let again = breaker::open(&log, log.pool(), id, "again", None, 1.0, now());
    again.await.unwrap();
    let openings: Vec<i32> =
        sqlx::query_scalar("select openings from breaker").fetch_all(log.pool()).await.unwrap();
    assert_eq!(openings, [1]);
    // The same of what comes while it is open: all rows of an alert are made at once.
    hospital.store(&[heart_rate("102", 100.0, now()), heart_rate("102", 131.0, now())]).await;
    eventually("the second alarm", SOON, || async {
        (about(&fallback, "HIGH_HEART_RATE").len() == 2).then_some(())
    })
    .await;
    assert_eq!(receiver.deliveries().len(), 2);
    let deliveries = hospital.deliveries(&stands_in).await;
    assert!(deliveries.iter().all(|d| d["event"] != "MINE"), "{deliveries:?}");
    assert_eq!(hospital.deliveries(&bystander).await, Vec::<Value>::new());
}

#[tokio::test]
async fn what_an_endpoint_that_is_gone_was_not_told_goes_to_the_fallback() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let (receiver, fallback) = (Receiver::start().await, Receiver::start().await);
    receiver.answer_next([Answer::Status(500)]);
    receiver.answer_always(Answer::Status(410));
    let endpoint = hospital.endpoint(&receiver, &["*"]).await;
    hospital.endpoint_with(&fallback, json!({ "fallback": true, "events": [] })).await;
    hospital.measure("101", 130.0).await;
    hospital.measure("102", 130.0).await;
    let notice = first_about(&fallback, "ENDPOINT_DISABLED").await;
    assert_eq!(notice.body["endpointId"], endpoint.as_str());
    // The one that was refused with the 410, and the one that still waited.
    eventually("both pages", SOON, || async {
        (about(&fallback, "HIGH_HEART_RATE").len() == 2).then_some(())
    })
    .await;
    let dead = hospital.deliveries(&endpoint).await;
    assert!(dead.iter().all(|d| d["state"] == "dead" && d["reason"].is_string()), "{dead:?}");
}

#[tokio::test]
async fn receivers_that_misbehave_in_every_way_slow_nobody_down() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let (healthy, failing) = (Receiver::start().await, Receiver::start().await);
    failing.answer_always(Answer::Status(500));
    hospital.endpoint(&healthy, &["*"]).await;
    hospital.endpoint(&failing, &["*"]).await;
    let manners = [Manner::Hang, Manner::Drip, Manner::DripBody, Manner::Endless, Manner::Reset];
    let mut rogues = Vec::new();
    for manner in manners {
        let rogue = Rogue::start(manner).await;
        let body = json!({ "url": rogue.url, "events": ["*"] });
        let (status, body) = hospital.post("/webhooks", &body).await;
        assert_eq!(status, 201, "{body}");
        rogues.push((manner, rogue, body["id"].as_str().unwrap().to_owned()));
    }
    let other = Hospital::new(&server, "other");
    let theirs = Receiver::start().await;
    other.endpoint(&theirs, &["*"]).await;
    for wave in 0..5 {
        let of_wave = |n: usize| heart_rate(&format!("p{wave}-{n}"), 130.0, now());
        let sent = std::time::Instant::now();
        hospital.store(&(0..20).map(of_wave).collect::<Vec<_>>()).await;
        other.store(&[heart_rate(&format!("p{wave}"), 130.0, now())]).await;
        let last = eventually("the healthy to have all", SOON, || async {
            let (all, other) = (healthy.deliveries(), theirs.deliveries());
            (all.len() == (wave + 1) * 20 && other.len() == wave + 1)
                .then(|| all.last().unwrap().at.max(other.last().unwrap().at))
        })
        .await;
        // Far below the timeout that the others run into.
        assert!(last - sent < Duration::from_secs(3), "wave {wave}: {:?}", last - sent);
    }
    for (manner, rogue, endpoint) in &rogues {
        assert!(rogue.called() > 0, "{manner:?} was never called");
        let delivery = eventually("an attempt to be recorded", SOON, || async {
            let all = hospital.deliveries(endpoint).await;
            let mut tried = Vec::new();
            for delivery in all {
                let path = format!("/deliveries/{}", delivery["id"].as_str().unwrap());
                let delivery = hospital.found(&path).await;
                tried.extend((delivery["log"] != json!([])).then_some(delivery));
                if !tried.is_empty() {
                    break;
                }
            }
            tried.pop()
        })
        .await;
        let attempt = &delivery["log"][0];
        let took = attempt["latencyMs"].as_i64().unwrap();
        // One deadline over everything, the body as well.
        assert!(took < 6_500, "{manner:?}: {attempt}");
        match manner {
            Manner::Hang | Manner::Drip | Manner::Reset | Manner::Says(_) => {
                assert_eq!(
                    (&attempt["status"], attempt["error"].is_string()),
                    (&Value::Null, true)
                );
            }
            Manner::DripBody | Manner::Endless => {
                assert_eq!(
                    (&attempt["status"], &delivery["state"]),
                    (&json!(200), &json!("delivered"))
                );
                assert!(attempt["answer"].as_str().unwrap().len() <= 256);
                assert!(took < 3_000, "{manner:?}: {attempt}");
            }
        }
    }
}
