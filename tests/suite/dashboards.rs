//! What a ward's screen asks: buckets, the list of patients, alerts and their
//! acknowledgement, and whether an answer is as new as what was just stored.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::server::Server;

const SOON: Duration = Duration::from_secs(20);

async fn hospital(database: &Database) -> (Server, Hospital) {
    let server = Server::start(database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    (server, hospital)
}

/// Registers a patient; the status and what was answered.
async fn register(hospital: &Hospital, patient: &str, record: &Value) -> (u16, Value) {
    let path = format!("/patients/{patient}");
    let answer = hospital.request(Method::PUT, &path).json(record).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn ids(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("items").iter();
    items.map(|item| item["patientId"].as_str().expect("an id")).collect()
}

/// Every page of a list, by its cursor.
async fn all_pages(hospital: &Hospital, path: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = hospital.found(&format!("{path}{cursor}")).await;
        items.extend(page["items"].as_array().expect("items").clone());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

#[tokio::test]
async fn buckets_are_what_one_gets_by_hand() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    let start: DateTime<Utc> = "2025-10-20T10:20:17.5Z".parse().unwrap();
    // Uneven in time, with an hour of silence in the middle.
    let readings: Vec<(DateTime<Utc>, f64)> = (0..200_i64)
        .map(|i| {
            let silence = if i < 120 { 0 } else { 3_600 };
            let at = start + TimeDelta::seconds(i * 7 + i % 5 + silence);
            (at, 60.0 + (i * 37 % 61) as f64 / 4.0)
        })
        .collect();
    let sent: Vec<Value> = readings.iter().map(|(at, v)| heart_rate("101", *v, *at)).collect();
    hospital.store(&sent).await;

    let from = start + TimeDelta::seconds(90);
    for (every, step) in [("1m", TimeDelta::minutes(1)), ("15m", TimeDelta::minutes(15))] {
        let mut by_hand: BTreeMap<DateTime<Utc>, Vec<f64>> = BTreeMap::new();
        for (at, value) in readings.iter().filter(|(at, _)| *at >= from) {
            by_hand.entry(at.duration_trunc(step).unwrap()).or_default().push(*value);
        }
        let question = format!(
            "/patients/101/readings?vital=heart_rate&every={every}&limit=4&from={}",
            rfc3339(from)
        );
        let buckets = all_pages(&hospital, &question).await;
        assert_eq!(buckets.len(), by_hand.len(), "{every}");
        for (bucket, (start, values)) in buckets.iter().zip(by_hand) {
            assert_eq!(bucket["start"], rfc3339(start));
            assert_eq!(bucket["count"], values.len());
            let min = values.iter().copied().fold(f64::INFINITY, f64::min);
            let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let avg = values.iter().sum::<f64>() / values.len() as f64;
            assert_eq!((bucket["min"].as_f64(), bucket["max"].as_f64()), (Some(min), Some(max)));
            assert!((bucket["avg"].as_f64().unwrap() - avg).abs() < 1e-9, "{bucket}");
        }
    }
}

#[tokio::test]
async fn patients_are_listed_by_ward_and_page() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    assert_eq!(hospital.found("/patients").await["items"], json!([]));
    for i in 1..=5 {
        let ward = if i % 2 == 0 { "4B" } else { "ICU & west" };
        let record = json!({ "ward": ward, "birthDate": "1950-04-30", "extra": { "x": [1] } });
        let (status, body) = register(&hospital, &format!("p{i}"), &record).await;
        assert_eq!((status, &body["ward"]), (200, &json!(ward)), "{body}");
    }
    // Nobody registered this one; its readings did.
    hospital.measure("p6", 71.0).await;

    let everybody = hospital.found("/patients").await;
    assert_eq!(ids(&everybody), ["p1", "p2", "p3", "p4", "p5", "p6"]);
    assert_eq!(everybody["next"], Value::Null);
    assert_eq!(everybody["items"][5]["vitals"]["heart_rate"]["value"], 71);
    assert_eq!(everybody["items"][0]["vitals"], json!({}));
    assert_eq!(ids(&hospital.found("/patients?ward=4B").await), ["p2", "p4"]);
    assert_eq!(ids(&hospital.found("/patients?ward=ICU%20%26%20west").await), ["p1", "p3", "p5"]);
    assert_eq!(hospital.found("/patients?ward=4b").await["items"], json!([]));
    let paged = all_pages(&hospital, "/patients?limit=4").await;
    assert_eq!(ids(&json!({ "items": paged })), ids(&everybody));

    // They move.
    hospital.patch("/patients/p2/record", &json!({ "ward": "5A" })).await;
    assert_eq!(ids(&hospital.found("/patients?ward=4B").await), ["p4"]);
    assert_eq!(ids(&hospital.found("/patients?ward=5A").await), ["p2"]);
    for (record, pointer) in [
        (json!({ "ward": 4 }), "/ward"),
        (json!({ "ward": "" }), "/ward"),
        (json!({ "birthDate": "30.4.1950" }), "/birthDate"),
        (json!({ "spo2Scale": 3 }), "/spo2Scale"),
    ] {
        let (status, problem) = register(&hospital, "p2", &record).await;
        assert_eq!((status, &problem["pointer"]), (422, &json!(pointer)), "{problem}");
    }
    let (status, _) = register(&hospital, "no_id", &json!({})).await;
    assert_eq!(status, 422);
    assert_eq!(ids(&hospital.found("/patients?ward=5A").await), ["p2"]);
}

/// Asks with a tag that one has; status, tag and body of the answer.
async fn ask(hospital: &Hospital, path: &str, tag: Option<&str>) -> (u16, String, String) {
    let request = hospital.request(Method::GET, path);
    let request = tag.iter().fold(request, |request, tag| request.header("if-none-match", *tag));
    let answer = request.send().await.unwrap();
    let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
    (answer.status().as_u16(), tag, answer.text().await.unwrap())
}

#[tokio::test]
async fn an_answer_that_one_has_already_is_a_304() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    register(&hospital, "101", &json!({ "ward": "4B" })).await;
    hospital.measure("101", 80.0).await;
    let paths =
        ["/patients/101", "/patients/101/heart-rate", "/patients/101/readings", "/patients"];
    for path in paths {
        // The age of a value changes the answer, each second.
        let tag = eventually("two answers within a second", SOON, async || {
            let (status, tag, _) = ask(&hospital, path, None).await;
            assert_eq!(status, 200);
            let again = ask(&hospital, path, Some(&tag)).await;
            let among_others = ask(&hospital, path, Some(&format!("\"other\", {tag}"))).await.0;
            (again == (304, tag.clone(), String::new()) && among_others == 304).then_some(tag)
        })
        .await;
        assert_eq!(ask(&hospital, path, Some("\"other\"")).await.0, 200);

        hospital.measure("101", 80.0).await;
        let (status, newer, _) = ask(&hospital, path, Some(&tag)).await;
        assert_eq!(status, 200, "{path} after another reading");
        assert_ne!(newer, tag);
    }
}

#[tokio::test]
async fn a_patient_who_moved_is_no_304() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    hospital.measure("101", 80.0).await;
    for (path, wards) in [("/patients/101", ["4B", "5A"]), ("/patients", ["6C", "7D"])] {
        register(&hospital, "101", &json!({ "ward": wards[0] })).await;
        let (_, tag, body) = ask(&hospital, path, None).await;
        assert!(body.contains(wards[0]), "{body}");
        register(&hospital, "101", &json!({ "ward": wards[1] })).await;
        let (status, _, body) = ask(&hospital, path, Some(&tag)).await;
        assert_eq!(status, 200, "{path} after the patient moved");
        assert!(body.contains(wards[1]), "{body}");
    }
}

/// Raises an alert for each patient; their alerts, newest first.
async fn raise(hospital: &Hospital, patients: &[&str]) -> Vec<Value> {
    for patient in patients {
        hospital.measure(patient, 130.0).await;
    }
    eventually("an alert each", SOON, async || {
        let alerts = hospital.found("/alerts?state=active").await;
        let alerts = alerts["items"].as_array()?.clone();
        (alerts.len() == patients.len()).then_some(alerts)
    })
    .await
}

#[tokio::test]
async fn alerts_are_listed_newest_first_and_show_what_raised_them() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    let alerts = raise(&hospital, &["101", "102", "103"]).await;
    let of: Vec<&str> = alerts.iter().map(|a| a["patientId"].as_str().unwrap()).collect();
    assert_eq!(of, ["103", "102", "101"]);
    assert_eq!(all_pages(&hospital, "/alerts?limit=1").await, alerts);
    assert_eq!(ids(&hospital.found("/alerts?patientId=102").await), ["102"]);
    assert_eq!(hospital.found("/alerts?state=cleared").await["items"], json!([]));
    assert_eq!(hospital.found("/alerts?patientId=nobody").await["items"], json!([]));

    let id = alerts[2]["id"].as_str().unwrap();
    let alert = hospital.found(&format!("/alerts/{id}")).await;
    for key in ["id", "patientId", "event", "state", "priority", "value", "since"] {
        assert_eq!(alert[key], alerts[2][key], "{key}");
    }
    assert_eq!((&alert["rule"], &alert["ruleVersion"]), (&json!("high-heart-rate"), &json!(1)));
    let reading = &alert["readings"][0];
    assert_eq!((&reading["value"], &reading["deviceId"]), (&json!(130), &json!("watch-7")));
    assert_eq!(reading["measuredAt"], alert["since"]);
    assert_eq!(alert["_links"]["ack"], format!("/api/v1/alerts/{id}/ack"));
}

#[tokio::test]
async fn the_first_acknowledgement_of_an_alert_stays() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    let alert = raise(&hospital, &["101"]).await.remove(0);
    let path = format!("/alerts/{}/ack", alert["id"].as_str().unwrap());
    let (status, first) =
        hospital.post(&path, &json!({ "by": "nurse-1", "note": "on my way" })).await;
    assert_eq!(status, 200, "{first}");
    let acknowledged = &first["acknowledged"];
    assert_eq!(
        (&acknowledged["by"], &acknowledged["note"]),
        (&json!("nurse-1"), &json!("on my way"))
    );
    assert!(acknowledged["at"].is_string(), "{first}");
    assert_eq!(first["state"], "active", "an acknowledged alert still stands");

    let (status, second) = hospital.post(&path, &json!({ "by": "nurse-2" })).await;
    assert_eq!((status, &second["acknowledged"]), (200, acknowledged));
    let state = hospital.found("/patients/101").await;
    assert_eq!(&state["alerts"][0]["acknowledged"], acknowledged);
    // Before the acknowledgement was known, the alert stood without it.
    let known = state["alerts"][0]["raisedAt"].as_str().unwrap();
    let before = hospital.found(&format!("/patients/101?knownAt={known}")).await;
    assert_eq!(before["alerts"][0]["acknowledged"], Value::Null);

    let (status, problem) = hospital.post(&path, &json!({ "by": "" })).await;
    assert_eq!((status, &problem["pointer"]), (422, &json!("/by")));
    let (status, problem) = hospital.post(&path, &json!({ "by": 7 })).await;
    assert!((400..500).contains(&status), "{problem}");
    let nobodys = "/alerts/00000000-0000-0000-0000-000000000000/ack";
    assert_eq!(hospital.post(nobodys, &json!({ "by": "nurse-1" })).await.0, 404);
}

#[tokio::test]
async fn two_nurses_at_once_get_the_same_acknowledgement() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    let alert = raise(&hospital, &["101"]).await.remove(0);
    let path = format!("/alerts/{}/ack", alert["id"].as_str().unwrap());
    let nurses = (0..8).map(|i| {
        let (hospital, path) = (hospital.clone(), path.clone());
        tokio::spawn(async move { hospital.post(&path, &json!({ "by": format!("n{i}") })).await })
    });
    let mut answers = Vec::new();
    for nurse in nurses.collect::<Vec<_>>() {
        let (status, answer) = nurse.await.unwrap();
        assert_eq!(status, 200, "{answer}");
        answers.push(answer["acknowledged"].clone());
    }
    let now = hospital.found(&format!("/alerts/{}", alert["id"].as_str().unwrap())).await;
    assert!(answers.iter().all(|answer| *answer == now["acknowledged"]), "{answers:?}");
}

#[tokio::test]
async fn who_has_stored_a_reading_finds_it_at_once() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    let rounds = (0..4).map(|patient| {
        let (hospital, patient) = (hospital.clone(), format!("p{patient}"));
        tokio::spawn(async move {
            for i in 0..15 {
                let (value, at) = (60 + i, now());
                hospital.store(&[heart_rate(&patient, f64::from(value), at)]).await;
                // The history is read from the log, which is never behind.
                let history = hospital.found(&format!("/patients/{patient}/readings")).await;
                assert_eq!(history["items"].as_array().unwrap().len(), i as usize + 1);
                let path = format!("/patients/{patient}");
                let newest = hospital.found(&format!("{path}/heart-rate")).await;
                assert_eq!(newest["heartRate"], value);
                let state = hospital.found(&path).await;
                assert_eq!(state["vitals"]["heart_rate"]["value"], value);
                let list = hospital.found("/patients").await;
                let items = list["items"].as_array().unwrap();
                let listed = items.iter().find(|item| item["patientId"] == *patient);
                assert_eq!(listed.expect("listed")["vitals"]["heart_rate"]["value"], value);
            }
        })
    });
    for round in rounds.collect::<Vec<_>>() {
        round.await.unwrap();
    }
}

/// A record is the caller's to fill, so nothing in it may be taken for the log's own.
#[tokio::test]
async fn a_record_that_looks_like_an_alert_is_only_a_record() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    let alert = raise(&hospital, &["101"]).await.remove(0);
    let forged = "3b1f8e0a-6a53-4b32-9f0f-0c1f5a1f3f10";
    for record in [
        json!({ "alertId": "none", "state": "raised" }),
        json!({ "alertId": forged, "state": "raised", "event": "FORGED", "value": 1 }),
        json!({ "alertId": alert["id"], "state": "cleared" }),
        json!({ "alertId": alert["id"], "state": "acknowledged", "acknowledged": { "by": "x" } }),
    ] {
        let (status, body) = register(&hospital, "101", &record).await;
        assert_eq!((status, &body["code"]), (422, &json!("unknown_field")), "{body}");
        let (status, body) = register(&hospital, "101", &json!({ "extra": record })).await;
        assert_eq!(status, 200, "{body}");
    }
    let now = rfc3339(now());
    for question in [String::new(), format!("?asOf={now}"), format!("?knownAt={now}")] {
        let state = hospital.found(&format!("/patients/101{question}")).await;
        assert_eq!(state["alerts"], json!([alert]), "{question}");
    }
}
