//! What can be asked about patients: now, at a moment, and as it was known then.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::server::Server;

const SOON: Duration = Duration::from_secs(20);

/// Name, path, key, unit, and a value that no living patient makes suspect.
const VITALS: [(&str, &str, &str, &str, f64); 12] = [
    ("heart_rate", "heart-rate", "heartRate", "/min", 82.0),
    ("respiratory_rate", "respiratory-rate", "respiratoryRate", "/min", 16.0),
    ("spo2", "spo2", "spo2", "%", 97.0),
    ("body_temperature", "body-temperature", "bodyTemperature", "Cel", 37.2),
    ("systolic_bp", "systolic-bp", "systolicBp", "mm[Hg]", 124.0),
    ("diastolic_bp", "diastolic-bp", "diastolicBp", "mm[Hg]", 81.0),
    ("mean_bp", "mean-bp", "meanBp", "mm[Hg]", 95.0),
    ("blood_glucose", "blood-glucose", "bloodGlucose", "mg/dL", 101.0),
    ("body_weight", "body-weight", "bodyWeight", "kg", 72.5),
    ("oxygen_flow", "oxygen-flow", "oxygenFlow", "L/min", 2.0),
    ("consciousness", "consciousness", "consciousness", "{ACVPU}", 0.0),
    ("heart_rate_variability", "heart-rate-variability", "heartRateVariability", "ms", 41.0),
];

async fn hospital(database: &Database) -> (Server, Hospital) {
    let server = Server::start(database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    (server, hospital)
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap_or_else(|| panic!("no time: {value}")).parse().expect("a time")
}

fn reading(vital: &str, value: f64, at: DateTime<Utc>) -> Value {
    let mut reading = heart_rate("101", value, at);
    reading["vital"] = vital.into();
    reading.as_object_mut().unwrap().remove("unit");
    reading
}

/// The active alerts of 101, once the rule has raised one.
async fn raised(hospital: &Hospital) -> Value {
    eventually("an active alert", SOON, async || {
        let alerts = hospital.found("/alerts?state=active&patientId=101").await;
        let first = alerts["items"].get(0)?;
        Some(first.clone())
    })
    .await
}

#[tokio::test]
async fn each_vital_has_a_path_with_its_key_and_unit() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    let at = now() - TimeDelta::seconds(30);
    for (name, path, key, unit, value) in VITALS {
        let (status, problem) = hospital.get(&format!("/patients/101/{path}")).await;
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{path}");
        hospital.store(&[reading(name, value, at)]).await;
        let expected = json!({
            "patientId": "101", key: vitals::event::number(value), "unit": unit,
            "timestamp": rfc3339(at), "deviceId": "watch-7", "quality": "good",
        });
        assert_eq!(hospital.found(&format!("/patients/101/{path}")).await, expected);
    }
    // An older reading that comes later is not the newest.
    hospital.store(&[reading("spo2", 91.0, at - TimeDelta::seconds(1))]).await;
    assert_eq!(hospital.found("/patients/101/spo2").await["spo2"], 97);
}

#[tokio::test]
async fn what_is_not_there_is_a_404_and_what_makes_no_sense_a_400() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    hospital.measure("101", 80.0).await;
    for path in [
        "/patients/nobody",
        "/patients/nobody/heart-rate",
        "/patients/nobody/readings",
        "/patients/nobody/readings?vital=heart_rate&every=1m",
        "/patients/nobody/replay?speed=max",
        "/patients/nobody?asOf=2025-01-01T00:00:00Z",
        "/patients/101/spo2",
        "/patients/101/pulse",
        "/patients/101/heart_rate",
        "/alerts/00000000-0000-0000-0000-000000000000",
        "/alerts/1",
        "/nothing",
    ] {
        let (status, problem) = hospital.get(path).await;
        assert_eq!((status, &problem["status"]), (404, &json!(404)), "{path}: {problem}");
        assert!(problem["code"].is_string() && problem["detail"].is_string(), "{path}");
    }
    for path in [
        "/patients/101?asOf=yesterday",
        "/patients/101?knownAt=2025-01-01T00:00:00",
        "/patients/101/readings?vital=pulse",
        "/patients/101/readings?limit=0",
        "/patients/101/readings?limit=x",
        "/patients/101/readings?cursor=no-cursor-of-ours",
        "/patients/101/readings?every=1m",
        "/patients/101/readings?vital=heart_rate&every=0s",
        "/patients/101/readings?vital=heart_rate&every=often",
        "/patients/101/readings?from=1",
        "/patients?limit=-1",
        "/alerts?state=loud",
        "/alerts?cursor=%00",
    ] {
        let (status, problem) = hospital.get(path).await;
        assert_eq!((status, &problem["status"]), (400, &json!(400)), "{path}: {problem}");
    }
    let (status, problem) = hospital.get("/patients/ward%2F101").await;
    assert!((400..500).contains(&status), "{problem}");
    let answer = hospital.request(Method::DELETE, "/patients/101").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
}

#[tokio::test]
async fn a_patients_state_has_the_shape_of_the_contract() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    let at = now() - TimeDelta::seconds(12);
    // NEWS2: respiration 22 is 2, SpO2 93 is 2, 130 a minute is 2 and more; 38.4 is 1.
    let mut sent = vec![heart_rate("101", 130.0, at)];
    for (vital, value) in [("respiratory_rate", 22.0), ("spo2", 93.0), ("body_temperature", 38.4)] {
        sent.push(reading(vital, value, at));
    }
    // Measured so long ago that it says nothing about now.
    sent.push(reading("systolic_bp", 98.0, at - TimeDelta::days(3)));
    hospital.store(&sent).await;
    let alert = raised(&hospital).await;

    let state = hospital.found("/patients/101").await;
    assert_eq!(state["patientId"], "101");
    assert_eq!((&state["asOf"], &state["knownAt"]), (&Value::Null, &Value::Null));
    let vital = &state["vitals"]["heart_rate"];
    assert_eq!(vital["value"], 130);
    assert_eq!((&vital["unit"], &vital["deviceId"]), (&json!("/min"), &json!("watch-7")));
    assert_eq!((&vital["quality"], time(&vital["measuredAt"])), (&json!("good"), at));
    assert!(time(&vital["recordedAt"]) > at);
    let age = vital["ageSeconds"].as_i64().expect("an age");
    assert!((12..600).contains(&age), "{age}");
    assert_eq!(state["vitals"].as_object().unwrap().len(), 5);

    let shown = &state["alerts"][0];
    assert_eq!(shown["id"], alert["id"]);
    assert_eq!(shown["event"], "HIGH_HEART_RATE");
    assert_eq!((&shown["state"], &shown["priority"]), (&json!("active"), &json!("high")));
    assert_eq!((&shown["value"], time(&shown["since"])), (&json!(130), at));
    assert_eq!(shown["acknowledged"], Value::Null);

    let news2 = &state["news2"];
    assert_eq!(news2["partial"], true);
    assert_eq!(news2["stale"], json!(["systolic_bp"]));
    let parts = json!({ "respiratory_rate": 2, "spo2": 2, "heart_rate": 2, "body_temperature": 1 });
    for (part, score) in parts.as_object().unwrap() {
        assert_eq!(&news2["parts"][part], score, "{part}: {news2}");
    }
    assert_eq!((&news2["score"], &news2["band"]), (&json!(7), &json!("high")));
    assert!(news2["missing"].as_array().unwrap().contains(&json!("consciousness")), "{news2}");
    for (link, path) in [("self", ""), ("readings", "/readings"), ("replay", "/replay")] {
        assert_eq!(state["_links"][link], format!("/api/v1/patients/101{path}"));
    }
}

/// The two axes: a reading that came late is true from its measurement on, and known
/// from its recording on.
#[tokio::test]
async fn a_late_reading_is_true_before_it_is_known() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    let start = now() - TimeDelta::hours(2);
    let minute = |n: i64| start + TimeDelta::minutes(n);
    hospital
        .store(&[heart_rate("101", 80.0, minute(0)), heart_rate("101", 90.0, minute(20))])
        .await;
    let before = hospital.found("/patients/101").await;
    let known_before = time(&before["vitals"]["heart_rate"]["recordedAt"]);
    // Strictly after what was recorded, strictly before what comes.
    let known_before = known_before + TimeDelta::microseconds(1);
    hospital.store(&[heart_rate("101", 85.0, minute(10))]).await;

    let value = async |as_of: Option<DateTime<Utc>>, known_at: Option<DateTime<Utc>>| {
        let question = [("asOf", as_of), ("knownAt", known_at)]
            .iter()
            .filter_map(|(key, time)| Some(format!("{key}={}", rfc3339((*time)?))))
            .collect::<Vec<_>>()
            .join("&");
        let state = hospital.found(&format!("/patients/101?{question}")).await;
        assert_eq!(state["asOf"], json!(as_of.map(rfc3339)));
        assert_eq!(state["knownAt"], json!(known_at.map(rfc3339)));
        let newest = state["vitals"].get("heart_rate").cloned();
        newest.map(|newest| (newest["value"].as_i64().unwrap(), newest["ageSeconds"].clone()))
    };
    // Now and always: the newest by measurement.
    assert_eq!(value(None, None).await.unwrap().0, 90);
    // As of a moment, by all we know by now; ages are counted to that moment.
    assert_eq!(value(Some(minute(5)), None).await, Some((80, json!(300))));
    assert_eq!(value(Some(minute(15)), None).await, Some((85, json!(300))));
    assert_eq!(value(Some(minute(10)), None).await, Some((85, json!(0))));
    assert_eq!(value(Some(minute(25)), None).await, Some((90, json!(300))));
    assert_eq!(value(Some(minute(-1)), None).await, None);
    // The same moments, by what we knew before the late one came.
    assert_eq!(value(Some(minute(15)), Some(known_before)).await, Some((80, json!(900))));
    assert_eq!(value(Some(minute(25)), Some(known_before)).await, Some((90, json!(300))));
    assert_eq!(value(None, Some(known_before)).await.unwrap().0, 90);
    // Before anything was recorded nothing was known, whenever it was true.
    assert_eq!(value(Some(minute(25)), Some(minute(30))).await, None);
}

#[tokio::test]
async fn an_alert_stands_between_the_reading_that_raised_and_the_one_that_cleared_it() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    let start = now() - TimeDelta::seconds(60);
    let second = |n: i64| start + TimeDelta::seconds(n);
    hospital
        .store(&[heart_rate("101", 110.0, second(0)), heart_rate("101", 130.0, second(10))])
        .await;
    let alert = raised(&hospital).await;
    // Exactly at the threshold is not above it.
    hospital.store(&[heart_rate("101", 120.0, second(30))]).await;
    let cleared = eventually("the alert to be cleared", SOON, async || {
        let cleared = hospital.found("/alerts?state=cleared&patientId=101").await;
        cleared["items"].get(0).cloned()
    })
    .await;
    assert_eq!(cleared["id"], alert["id"]);
    assert_eq!(time(&cleared["clearedAt"]), second(30));

    let standing = async |question: String| {
        let state = hospital.found(&format!("/patients/101{question}")).await;
        let alerts = state["alerts"].as_array().unwrap().clone();
        alerts.iter().map(|alert| alert["id"].clone()).collect::<Vec<_>>()
    };
    let at = |t: DateTime<Utc>| format!("?asOf={}", rfc3339(t));
    assert_eq!(standing(String::new()).await, [] as [Value; 0]);
    assert_eq!(standing(at(second(9))).await, [] as [Value; 0]);
    assert_eq!(standing(at(second(10))).await, [alert["id"].clone()]);
    assert_eq!(standing(at(second(29))).await, [alert["id"].clone()]);
    assert_eq!(standing(at(second(30))).await, [] as [Value; 0]);
    // Known only from when it was raised on, and standing until its end was known.
    let raised_at = time(&alert["raisedAt"]);
    let known = |t: DateTime<Utc>| format!("?knownAt={}", rfc3339(t));
    assert_eq!(standing(known(raised_at)).await, [alert["id"].clone()]);
    assert_eq!(standing(known(raised_at - TimeDelta::microseconds(1))).await, [] as [Value; 0]);
}

#[tokio::test]
async fn pages_of_a_history_have_no_gap_and_no_repeat_while_readings_arrive() {
    let database = Database::new().await;
    let (_server, hospital) = hospital(&database).await;
    let start = now() - TimeDelta::hours(1);
    let at = |i: i64| start + TimeDelta::seconds(i * 10);
    let mut sent = Vec::new();
    for i in 0..50 {
        // Several vitals and devices at one moment: the cursor has to tell them apart.
        sent.push(heart_rate("101", 60.0 + i as f64, at(i)));
        sent.push(reading("spo2", 95.0, at(i)));
        let mut twin = heart_rate("101", 100.0, at(i));
        twin["deviceId"] = "watch-8".into();
        sent.push(twin);
    }
    hospital.store(&sent).await;

    let key = |item: &Value| {
        ["measuredAt", "vital", "deviceId"].map(|k| item[k].as_str().unwrap().to_owned())
    };
    let mut seen: Vec<[String; 3]> = Vec::new();
    let mut path = "/patients/101/readings?limit=7".to_owned();
    let mut pages = 0;
    loop {
        let page = hospital.found(&path).await;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 7);
        seen.extend(items.iter().map(key));
        let Some(next) = page["next"].as_str() else { break };
        assert_eq!(page["_links"]["next"].as_str().unwrap().split("cursor=").nth(1), Some(next));
        path = format!("/patients/101/readings?limit=7&cursor={next}");
        // One before the cursor, which must not shift it, and one after, which is found.
        pages += 1;
        let between = TimeDelta::milliseconds(pages);
        let early = heart_rate("101", 61.0, at(0) - between);
        hospital.store(&[early, heart_rate("101", 62.0, at(49) + between)]).await;
    }
    let mut expected = sent.clone();
    for page in 1..=pages {
        expected.push(heart_rate("101", 62.0, at(49) + TimeDelta::milliseconds(page)));
    }
    let mut sorted = seen.clone();
    sorted.sort_by_key(|[at, ..]| at.parse::<DateTime<Utc>>().unwrap());
    assert_eq!(seen, sorted, "oldest first");
    let mut keys: Vec<[String; 3]> = expected.iter().map(key).collect();
    keys.sort();
    let mut once = seen.clone();
    once.sort();
    assert_eq!(once, keys);

    let (from, to) = (rfc3339(at(10)), rfc3339(at(12)));
    let range = format!("/patients/101/readings?vital=spo2&from={from}&to={to}");
    let page = hospital.found(&range).await;
    let times: Vec<_> =
        page["items"].as_array().unwrap().iter().map(|i| time(&i["measuredAt"])).collect();
    assert_eq!(times, [at(10), at(11)], "from is included, to is not");
    assert_eq!(page["next"], Value::Null);
}
