//! Alarms that must sound and must not, from outside: after corrections, whatever the order
//! in a batch is, with several devices, clocks that run ahead, and silences that end.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::Database;
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::webhooks::received;

async fn scene() -> (Database, Server, Hospital, Receiver) {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let receiver = Receiver::start().await;
    hospital.endpoint(&receiver, &["*"]).await;
    (database, server, hospital, receiver)
}

/// `(seconds ago, value)`, each posted by itself.
async fn one_by_one(hospital: &Hospital, start: DateTime<Utc>, rows: &[(i64, f64)]) {
    for (ago, value) in rows {
        hospital.store(&[heart_rate("p", *value, start - TimeDelta::seconds(*ago))]).await;
        alerts(hospital).await;
    }
}

async fn retract(hospital: &Hospital, at: DateTime<Utc>) {
    let body = json!({
        "vital": "heart_rate", "deviceId": "watch-7", "measuredAt": rfc3339(at), "reason": "wrong patient",
    });
    assert_eq!(hospital.post("/patients/p/readings/retract", &body).await.0, 201);
}

/// Oldest first, by when they were raised.
async fn alerts(hospital: &Hospital) -> Vec<Value> {
    let body = hospital.found("/alerts?patientId=p").await;
    let mut items = body["items"].as_array().unwrap().clone();
    items.sort_by_key(|alert| alert["raisedAt"].as_str().unwrap().to_owned());
    items
}

fn shown(alert: &Value) -> (&str, i64, &str) {
    let text = |key: &str| alert[key].as_str().unwrap();
    (text("state"), alert["value"].as_i64().unwrap(), text("deviceId"))
}

/// The pages before another patient's, which comes after whatever should not have come.
async fn paged(hospital: &Hospital, receiver: &Receiver, count: usize) -> Vec<(String, i64)> {
    hospital.measure("q", 200.0).await;
    let pages = received(receiver, count + 1).await;
    let page = |body: &Value| {
        (body["state"].as_str().unwrap().to_owned(), body["value"].as_i64().unwrap())
    };
    let others = pages.iter().filter(|page| page.body["patientId"] != "q");
    let mut others: Vec<_> = others.map(|of| page(&of.body)).collect();
    others.sort();
    others
}

/// As [`paged`] answers them: pages of one moment come in any order.
fn pages(expect: &[(&str, i64)]) -> Vec<(String, i64)> {
    let page = |(state, value): &(&str, i64)| ((*state).to_owned(), *value);
    let mut pages: Vec<_> = expect.iter().map(page).collect();
    pages.sort();
    pages
}

#[tokio::test]
async fn an_alert_goes_on_when_its_reading_was_wrong_and_a_later_one_holds_it() {
    let (_database, _server, hospital, receiver) = scene().await;
    let start = now();
    one_by_one(&hospital, start, &[(60, 130.0), (50, 135.0)]).await;
    let raised = alerts(&hospital).await.remove(0);
    retract(&hospital, start - TimeDelta::seconds(60)).await;
    let alert = alerts(&hospital).await.remove(0);
    assert_eq!((shown(&alert), &alert["id"]), (("active", 135, "watch-7"), &raised["id"]));
    let since = rfc3339(start - TimeDelta::seconds(50));
    assert_eq!(alert["since"], since);
    assert_eq!(paged(&hospital, &receiver, 1).await, pages(&[("raised", 130)]));

    // The state of now and of a moment agree, and whoever looks is told what happened.
    for question in ["", &*format!("?asOf={}", rfc3339(now()))] {
        let state = hospital.found(&format!("/patients/p{question}")).await;
        assert_eq!(state["alerts"].as_array().unwrap().len(), 1, "{question}");
        assert_eq!(
            (&state["alerts"][0]["value"], &state["alerts"][0]["since"]),
            (&json!(135), &json!(since))
        );
    }
    let whole = hospital.found(&format!("/alerts/{}", alert["id"].as_str().unwrap())).await;
    let said: Vec<&Value> =
        whole["history"].as_array().unwrap().iter().map(|said| &said["state"]).collect();
    assert_eq!(said, ["raised", "corrected"]);
    assert_eq!(whole["readings"][0]["value"], 135);

    // It ends as any other, and with the last reading that holds it nothing is left.
    retract(&hospital, start - TimeDelta::seconds(50)).await;
    assert_eq!(shown(&alerts(&hospital).await[0]).0, "retracted");
}

#[tokio::test]
async fn what_cleared_an_alert_was_wrong_and_it_is_raised_and_paged_again() {
    let (_database, _server, hospital, receiver) = scene().await;
    let start = now();
    one_by_one(&hospital, start, &[(60, 130.0), (50, 80.0)]).await;
    retract(&hospital, start - TimeDelta::seconds(50)).await;
    let all = alerts(&hospital).await;
    let states: Vec<_> = all.iter().map(shown).collect();
    assert_eq!(states, [("cleared", 130, "watch-7"), ("active", 130, "watch-7")]);
    assert_ne!(all[0]["id"], all[1]["id"]);
    assert_eq!(all[1]["acknowledged"], Value::Null);
    let expect = pages(&[("raised", 130), ("cleared", 80), ("raised", 130)]);
    assert_eq!(paged(&hospital, &receiver, 3).await, expect);
    // A receiver that drops repeats does not drop it.
    let ids: std::collections::BTreeSet<String> =
        received(&receiver, 4).await.into_iter().map(|page| page.id).collect();
    assert_eq!(ids.len(), 4);
    // And it is cleared as any other.
    hospital.store(&[heart_rate("p", 90.0, start)]).await;
    assert!(alerts(&hospital).await.iter().all(|alert| alert["state"] == "cleared"));
}

#[tokio::test]
async fn what_a_person_cleared_stays_cleared_whatever_is_corrected() {
    let (_database, _server, hospital, receiver) = scene().await;
    let start = now();
    one_by_one(&hospital, start, &[(60, 130.0), (50, 135.0)]).await;
    let id = alerts(&hospital).await[0]["id"].as_str().unwrap().to_owned();
    hospital.post(&format!("/alerts/{id}/clear"), &json!({ "by": "nurse 7" })).await;
    alerts(&hospital).await;
    one_by_one(&hospital, start, &[(40, 80.0)]).await;
    for ago in [60, 40] {
        retract(&hospital, start - TimeDelta::seconds(ago)).await;
        let states: Vec<Value> =
            alerts(&hospital).await.iter().map(|alert| alert["state"].clone()).collect();
        assert_eq!(states, ["cleared"], "{ago}");
    }
    assert_eq!(paged(&hospital, &receiver, 2).await.len(), 2);
}

#[tokio::test]
async fn the_order_of_a_batch_decides_nothing() {
    let (_database, _server, hospital, receiver) = scene().await;
    let (start, rows) = (now(), [(22, 130.0), (12, 85.0), (2, 80.0)]);
    for (n, order) in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]].into_iter().enumerate() {
        let patient = format!("p{n}");
        let of = |n: usize| heart_rate(&patient, rows[n].1, start - TimeDelta::seconds(rows[n].0));
        hospital.store(&order.map(of)).await;
        let body = hospital.found(&format!("/alerts?patientId={patient}")).await;
        let all = body["items"].as_array().unwrap();
        assert_eq!(all.iter().map(shown).collect::<Vec<_>>(), [("cleared", 130, "watch-7")]);
    }
    let each = [("raised", 130), ("cleared", 85)].repeat(4);
    assert_eq!(paged(&hospital, &receiver, 8).await, pages(&each));
}

#[tokio::test]
async fn a_reading_older_than_one_that_was_judged_leaves_no_alert_standing() {
    let (_database, _server, hospital, receiver) = scene().await;
    let start = now();
    one_by_one(&hospital, start, &[(2, 80.0), (12, 85.0), (22, 130.0)]).await;
    let all = alerts(&hospital).await;
    assert_eq!(all.iter().map(shown).collect::<Vec<_>>(), [("missed", 130, "watch-7")]);
    assert_eq!(paged(&hospital, &receiver, 0).await, []);
    // The newer one was wrong: now it holds.
    retract(&hospital, start - TimeDelta::seconds(2)).await;
    retract(&hospital, start - TimeDelta::seconds(12)).await;
    assert_eq!(shown(&alerts(&hospital).await[1]), ("active", 130, "watch-7"));
}

fn by(device: &str, value: f64, at: DateTime<Utc>) -> Value {
    let mut reading = heart_rate("p", value, at);
    reading["deviceId"] = device.into();
    reading
}

#[tokio::test]
async fn another_device_does_not_clear_what_one_raised() {
    let (_database, _server, hospital, _receiver) = scene().await;
    hospital.store(&[by("bedside", 130.0, now())]).await;
    hospital.store(&[by("gadget-9", 70.0, now())]).await;
    assert_eq!(shown(&alerts(&hospital).await[0]), ("active", 130, "bedside"));
    hospital.store(&[by("bedside", 80.0, now())]).await;
    let alert = alerts(&hospital).await.remove(0);
    assert_eq!(shown(&alert).0, "cleared");
    let whole = hospital.found(&format!("/alerts/{}", alert["id"].as_str().unwrap())).await;
    let history = whole["history"].as_array().unwrap();
    let cleared = (&history[1]["deviceId"], &history[1]["value"], &history[1]["silentDevice"]);
    assert_eq!(cleared, (&json!("bedside"), &json!(80), &Value::Null), "{whole}");

    // A rule may say otherwise, either way.
    for (per, state) in [("patient", "cleared"), ("device", "active")] {
        let rule = json!({
            "id": per, "event": per.to_uppercase(), "priority": "medium", "mode": "active", "per": per,
            "when": { "vital": "heart_rate", "op": ">", "value": 100 },
        });
        let put = hospital.request(reqwest::Method::PUT, &format!("/rules/{per}")).json(&rule);
        assert_eq!(put.send().await.unwrap().status(), 200);
        hospital.store(&[by("bedside", 110.0, now())]).await;
        hospital.store(&[by("gadget-9", 70.0, now())]).await;
        let of_rule = |alert: &Value| alert["rule"] == per;
        let alert = alerts(&hospital).await.into_iter().find(of_rule).unwrap();
        assert_eq!(shown(&alert), (state, 110, "bedside"));
    }
}

#[tokio::test]
async fn an_alert_never_ends_before_it_began() {
    let (_database, _server, hospital, receiver) = scene().await;
    let ahead = now() + TimeDelta::seconds(200);
    hospital.store(&[heart_rate("p", 130.0, ahead)]).await;
    let at = hospital.measure("p", 80.0).await;
    let alert = alerts(&hospital).await.remove(0);
    assert_eq!(
        (&alert["since"], &alert["clearedAt"]),
        (&json!(rfc3339(ahead)), &json!(rfc3339(ahead)))
    );
    // The clearing reading's own time is shown beside it.
    let whole = hospital.found(&format!("/alerts/{}", alert["id"].as_str().unwrap())).await;
    assert_eq!(whole["history"][1]["measuredAt"], rfc3339(at), "{whole}");
    // Two pages within a millisecond may come in either order.
    let pages = received(&receiver, 2).await;
    let cleared = &pages.iter().find(|page| page.body["state"] == "cleared").unwrap().body;
    assert_eq!(
        (&cleared["measuredAt"], &cleared["since"]),
        (&json!(rfc3339(at)), &json!(rfc3339(ahead)))
    );
}

async fn quiet(hospital: &Hospital, until: DateTime<Utc>) -> String {
    let rule = json!({
        "id": "mine", "event": "MINE", "priority": "medium", "mode": "active",
        "when": { "vital": "heart_rate", "op": ">", "value": 90 },
    });
    let put = hospital.request(reqwest::Method::PUT, "/rules/mine").json(&rule);
    assert_eq!(put.send().await.unwrap().status(), 200);
    let wanted = json!({ "patientId": "p", "reason": "physiotherapy", "until": rfc3339(until) });
    let (status, silence) = hospital.post("/silences", &wanted).await;
    assert_eq!(status, 201, "{silence}");
    silence["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_end_of_a_silence_pages_the_alert_that_stands_once() {
    let (_database, _server, hospital, receiver) = scene().await;
    // By its time. Of a patient who was heard of: else it would hold nothing back.
    hospital.measure("p", 80.0).await;
    quiet(&hospital, now() + TimeDelta::seconds(4)).await;
    hospital.measure("p", 100.0).await;
    let alert = alerts(&hospital).await.remove(0);
    let page = received(&receiver, 1).await.remove(0).body;
    assert_eq!((&page["alertId"], &page["state"]), (&alert["id"], &json!("raised")));
    assert_eq!(alerts(&hospital).await.len(), 1);
    hospital.measure("p", 80.0).await;

    // By a person. What is over by then, and what somebody has seen, is nobody's page.
    let silence = quiet(&hospital, now() + TimeDelta::hours(1)).await;
    for value in [100.0, 80.0, 101.0] {
        hospital.measure("p", value).await;
        alerts(&hospital).await;
    }
    let (status, _) = hospital.delete(&format!("/silences/{silence}")).await;
    assert_eq!(status, 200);
    let all = received(&receiver, 3).await;
    let said: Vec<(&Value, &Value)> =
        all.iter().map(|page| (&page.body["state"], &page.body["value"])).collect();
    let (raised, cleared) = (json!("raised"), json!("cleared"));
    assert_eq!(said, [(&raised, &json!(100)), (&cleared, &json!(80)), (&raised, &json!(101))]);
    assert_eq!(all[2].body["alertId"], alerts(&hospital).await[2]["id"]);

    let silence = quiet(&hospital, now() + TimeDelta::hours(1)).await;
    hospital.measure("p", 80.0).await;
    hospital.measure("p", 102.0).await;
    let id = alerts(&hospital).await[3]["id"].as_str().unwrap().to_owned();
    hospital.post(&format!("/alerts/{id}/ack"), &json!({ "by": "nurse 7" })).await;
    hospital.delete(&format!("/silences/{silence}")).await;
    hospital.measure("p", 80.0).await;
    let cleared = received(&receiver, 4).await.remove(3).body;
    assert_eq!((&cleared["state"], &cleared["alertId"]), (&json!("cleared"), &json!(id)));
    // As of now there is one of each.
    let state = hospital.found(&format!("/patients/p?asOf={}", rfc3339(now()))).await;
    assert_eq!(state["alerts"], json!([]));
}
