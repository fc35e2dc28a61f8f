//! What devices send: stored to the letter and once, or refused with the code and the
//! place of what is wrong. Everything here is asked over HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use vitals::clock::rfc3339;

use crate::hospital::now;
use crate::support::eventually;
use crate::support::http::{Answer, get, post, send};
use crate::support::postgres::Database;
use crate::support::server::{Server, client};

const SCOPES: &str = "readings:write vitals:read alerts:read";

/// How long rules may take to judge what is stored.
const SOON: Duration = Duration::from_secs(20);

/// A good reading, `second` seconds after a moment of last year.
fn reading(patient: &str, second: i64) -> Value {
    let at: DateTime<Utc> = "2025-10-20T10:20:00Z".parse().unwrap();
    json!({
        "patientId": patient, "deviceId": "watch-7", "vital": "heart_rate", "value": 82,
        "unit": "/min", "measuredAt": rfc3339(at + TimeDelta::seconds(second)),
    })
}

/// The reading with one thing changed.
fn with(mut reading: Value, key: &str, value: impl Into<Value>) -> Value {
    reading[key] = value.into();
    reading
}

/// The caller that sends and looks.
struct Sender {
    server: Server,
    token: String,
}

impl Sender {
    async fn start(database: &Database) -> Sender {
        let server = Server::start(database).await;
        let token = server.token(SCOPES);
        Sender { server, token }
    }

    async fn send(&self, body: impl Into<Vec<u8>>) -> Answer {
        let url = self.server.url("/api/v1/readings");
        send(Method::POST, &url, &self.token, Some(body.into())).await
    }

    /// Sends what must be stored, and says how much was new and how much known.
    async fn store(&self, body: &Value) -> (u64, u64) {
        let answer = self.send(body.to_string()).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        assert_eq!(answer.json["rejected"], json!([]));
        let count = |key: &str| answer.json[key].as_u64().expect("a count");
        (count("stored"), count("duplicates"))
    }

    async fn found(&self, path: &str) -> Value {
        let answer = get(&self.server.url(&format!("/api/v1{path}")), &self.token).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json
    }

    async fn values(&self, patient: &str) -> Vec<Value> {
        let history = self.found(&format!("/patients/{patient}/readings")).await;
        let items = history["items"].as_array().expect("items").iter();
        items.map(|item| item["value"].clone()).collect()
    }
}

#[track_caller]
fn assert_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.json["status"], status);
    assert_eq!(answer.json["code"], code, "{}", answer.text);
    let detail = answer.json["detail"].as_str().unwrap_or_default();
    assert!(detail.len() > 10 && answer.json["title"].is_string(), "{}", answer.text);
    for inside in ["sqlx", "select ", "insert ", "panicked", "src/"] {
        assert!(!answer.text.contains(inside), "{}", answer.text);
    }
}

/// What is changed in a good reading, and what is to be said about it.
fn faults() -> Vec<(&'static str, Value, &'static str)> {
    let soon = rfc3339(now() + TimeDelta::minutes(6));
    vec![
        ("vital", "pulse".into(), "unknown_vital"),
        ("vital", "Heart_Rate".into(), "unknown_vital"),
        ("unit", "bpm".into(), "unit_not_accepted"),
        ("unit", "".into(), "unit_not_accepted"),
        ("value", 400.1.into(), "value_out_of_range"),
        ("value", (-1).into(), "value_out_of_range"),
        ("value", "130".into(), "not_a_number"),
        ("value", true.into(), "not_a_number"),
        ("value", Value::Null, "missing_field"),
        ("measuredAt", "2025-10-20T10:20:00".into(), "invalid_time"),
        ("measuredAt", "2025-10-20".into(), "invalid_time"),
        ("measuredAt", "2025-02-30T10:20:00Z".into(), "invalid_time"),
        ("measuredAt", soon.into(), "measured_in_future"),
        ("measuredAt", 1_760_955_600.into(), "not_a_string"),
        ("patientId", "ward/101".into(), "invalid_id"),
        ("patientId", "a b".into(), "invalid_id"),
        ("patientId", "101\u{0}".into(), "invalid_id"),
        ("patientId", "säng-1".into(), "invalid_id"),
        ("patientId", "x".repeat(65).into(), "invalid_id"),
        ("patientId", 101.into(), "not_a_string"),
        ("deviceId", "".into(), "invalid_id"),
        ("deviceId", "_tenant".into(), "invalid_id"),
        ("quality", 1.01.into(), "quality_out_of_range"),
        ("context", json!([1]), "context_not_an_object"),
        ("context", json!({ "note": "x".repeat(5_000) }), "context_too_large"),
    ]
}

/// The bare path goes past the router, the same with an empty query through it.
#[tokio::test]
async fn both_ways_in_answer_the_same() {
    let database = Database::new().await;
    let Sender { server, token } = Sender::start(&database).await;
    let (reader, good) = (server.token("vitals:read"), reading("p", 0).to_string());
    let [wrong, half] = [with(reading("p", 1), "value", "high"), json!([reading("p", 0), 7])];
    let (json, ndjson) = ("application/json", "application/x-ndjson");
    let asked: [(&str, &str, &str, &str, String); 9] = [
        ("stored", &token, json, "identity", good.clone()),
        ("a stream", &token, ndjson, "identity", good.clone()),
        ("refused", &token, json, "identity", wrong.to_string()),
        ("in part", &token, json, "identity", half.to_string()),
        ("no JSON", &token, json, "identity", "{".to_owned()),
        ("no gzip", &token, json, "gzip", good.clone()),
        ("another encoding", &token, json, "br", good.clone()),
        ("another scope", &reader, json, "identity", good.clone()),
        ("no token", "x", json, "identity", good.clone()),
    ];
    let mut statuses = Vec::new();
    for (what, token, kind, encoding, body) in asked {
        let mut answers = Vec::new();
        // The first time it is new: each way has its own.
        for (path, patient) in [("readings", "a"), ("readings?&", "b")] {
            let url = server.url(&format!("/api/v1/{path}"));
            let request = client().post(url).bearer_auth(token).header("content-type", kind);
            let body = body.replace(r#""p""#, &format!("{patient:?}"));
            let answer = request.header("content-encoding", encoding).body(body).send();
            let answer = answer.await.unwrap();
            // Of what moves with time and use, that it is there.
            let moves = |name: &str| name == "date" || name.starts_with("ratelimit-");
            let told = |value: &HeaderValue| value.to_str().unwrap().to_owned();
            let headers: BTreeMap<String, Option<String>> = answer
                .headers()
                .iter()
                .map(|(name, value)| {
                    (name.to_string(), (!moves(name.as_str())).then(|| told(value)))
                })
                .collect();
            answers.push((answer.status(), headers, answer.text().await.unwrap()));
        }
        assert_eq!(answers[0], answers[1], "{what}");
        assert!(answers[0].1.contains_key("x-content-type-options"), "{what}");
        statuses.push(answers[0].0.as_u16());
    }
    assert_eq!(statuses, [201, 201, 422, 207, 400, 400, 415, 403, 401]);
}

#[tokio::test]
async fn each_bad_reading_is_refused_with_code_and_place_and_its_neighbours_are_stored() {
    let database = Database::new().await;
    let sender = Sender::start(&database).await;
    for (i, (field, value, code)) in faults().into_iter().enumerate() {
        let patient = format!("p{i}");
        let bad = with(reading(&patient, 1), field, value);
        let alone = sender.send(bad.to_string()).await;
        assert_problem(&alone, 422, code);
        assert_eq!(alone.json["pointer"], format!("/{field}"), "{}", alone.text);

        let batch = json!([reading(&patient, 0), bad, reading(&patient, 2)]);
        let answer = sender.send(batch.to_string()).await;
        assert_eq!(answer.status, 207, "{}", answer.text);
        assert_eq!((&answer.json["stored"], &answer.json["duplicates"]), (&json!(2), &json!(0)));
        let rejected = answer.json["rejected"].as_array().expect("rejected");
        assert_eq!(rejected.len(), 1, "{}", answer.text);
        assert_eq!((&rejected[0]["index"], &rejected[0]["code"]), (&json!(1), &json!(code)));
        assert_eq!(rejected[0]["pointer"], format!("/1/{field}"));
        assert!(rejected[0]["detail"].is_string(), "{}", answer.text);
        assert_eq!(sender.values(&patient).await, [82, 82]);
    }
}

#[tokio::test]
async fn what_serde_cannot_write_is_refused_as_well() {
    let database = Database::new().await;
    let sender = Sender::start(&database).await;
    let good = reading("101", 0).to_string();
    let infinite = good.replace("82", "1e999");
    assert_problem(&sender.send(infinite.clone()).await, 422, "not_a_number");
    let answer = sender.send(format!("[{good},{infinite}]")).await;
    assert_eq!(answer.status, 207, "{}", answer.text);
    assert_eq!(answer.json["rejected"][0]["pointer"], "/1/value");

    for no_json in [good.replace("82", "NaN"), good.replace('}', ""), String::new(), "][".into()] {
        assert_problem(&sender.send(no_json).await, 400, "unreadable_json");
    }
    let broken = [&b"[{\"patientId\":\"\xff\xfe\"}]"[..], b"\xff", b"\xed\xa0\x80"];
    for bytes in broken {
        assert_problem(&sender.send(bytes).await, 400, "not_utf8");
    }
    assert_problem(&sender.send("[".repeat(100_000)).await, 400, "unreadable_json");
    assert_problem(&sender.send("7").await, 422, "not_readings");
    assert_problem(&sender.send("[]").await, 422, "empty_batch");
    assert_problem(&sender.send("[[]]").await, 422, "not_an_object");
    assert_problem(&sender.send("{}").await, 422, "missing_field");
    assert_eq!(sender.values("101").await, [82]);
}

#[tokio::test]
async fn ten_thousand_readings_are_a_batch_and_one_more_is_not() {
    let database = Database::new().await;
    let sender = Sender::start(&database).await;
    let mut batch: Vec<Value> = (0..10_001).map(|i| reading(&format!("p{}", i % 50), i)).collect();
    assert_problem(&sender.send(json!(batch).to_string()).await, 413, "batch_too_large");
    // Counted before they are judged: not one of them was looked at.
    let bad = json!(vec![json!({}); 10_001]).to_string();
    assert_problem(&sender.send(bad).await, 413, "batch_too_large");
    batch.pop();
    assert_eq!(sender.store(&json!(batch)).await, (10_000, 0));
    assert_eq!(sender.store(&json!(batch)).await, (0, 10_000));
}

#[tokio::test]
async fn one_reading_an_array_and_what_may_be_left_out() {
    let database = Database::new().await;
    let sender = Sender::start(&database).await;
    assert_eq!(sender.store(&reading("101", 0)).await, (1, 0));
    assert_eq!(sender.store(&json!([reading("101", 1), reading("101", 2)])).await, (2, 0));
    let mut bare = with(reading("101", 3), "value", 83.5);
    bare.as_object_mut().unwrap().remove("unit");
    assert_eq!(sender.store(&bare).await, (1, 0));
    let ahead = with(reading("101", 0), "measuredAt", rfc3339(now() + TimeDelta::minutes(4)));
    let full = with(with(ahead, "quality", 0.5), "context", json!({ "posture": "upright" }));
    assert_eq!(sender.store(&full).await, (1, 0));
    assert_eq!(
        sender.values("101").await,
        [json!(82), json!(82), json!(82), json!(83.5), json!(82)]
    );
}

#[tokio::test]
async fn units_are_brought_to_the_vitals_own() {
    let database = Database::new().await;
    let sender = Sender::start(&database).await;
    let cases = [
        ("body_temperature", "body-temperature", "bodyTemperature", 98.6, "[degF]", 37.0, "Cel"),
        ("systolic_bp", "systolic-bp", "systolicBp", 16.0, "kPa", 120.0099, "mm[Hg]"),
        ("diastolic_bp", "diastolic-bp", "diastolicBp", 10.0, "kPa", 75.0062, "mm[Hg]"),
        ("mean_bp", "mean-bp", "meanBp", 12.0, "kPa", 90.0074, "mm[Hg]"),
        ("blood_glucose", "blood-glucose", "bloodGlucose", 5.5, "mmol/L", 99.086, "mg/dL"),
        ("body_weight", "body-weight", "bodyWeight", 150.0, "[lb_av]", 68.0389, "kg"),
    ];
    for (vital, path, key, value, unit, expected, canonical) in cases {
        let sent = with(with(reading("101", 0), "vital", vital), "value", value);
        assert_eq!(sender.store(&with(sent, "unit", unit)).await, (1, 0), "{vital}");
        let found = sender.found(&format!("/patients/101/{path}")).await;
        let stored = found[key].as_f64().unwrap_or_else(|| panic!("{key} in {found}"));
        assert!((stored - expected).abs() < 1e-3, "{vital}: {stored}");
        assert_eq!(found["unit"], canonical);
        assert_eq!(found["quality"], "good");
    }
}

#[tokio::test]
async fn the_same_patient_vital_device_and_moment_are_the_same_reading_for_ever() {
    let database = Database::new().await;
    let sender = Sender::start(&database).await;
    let first = reading("101", 0);
    // In one request: the first counts, whatever the others say.
    let other_value = with(first.clone(), "value", 99);
    assert_eq!(sender.store(&json!([first, other_value, first])).await, (1, 2));
    // In another one, and in other words for the same moment.
    assert_eq!(sender.store(&other_value).await, (0, 1));
    for same_moment in ["2025-10-20T12:20:00+02:00", "2025-10-20T10:20:00.0000004Z"] {
        let again = with(other_value.clone(), "measuredAt", same_moment);
        assert_eq!(sender.store(&again).await, (0, 1), "{same_moment}");
    }
    // Another device, vital, patient or microsecond is another reading.
    for (key, value) in [
        ("deviceId", "watch-8"),
        ("vital", "respiratory_rate"),
        ("patientId", "102"),
        ("measuredAt", "2025-10-20T10:20:00.000001Z"),
    ] {
        assert_eq!(sender.store(&with(first.clone(), key, value)).await, (1, 0), "{key}");
    }
    let Sender { server, .. } = sender;
    assert!(server.terminate().await.0.success());

    let sender = Sender::start(&database).await;
    assert_eq!(sender.store(&json!([other_value, reading("101", 9)])).await, (1, 1));
    let history = sender.found("/patients/101/readings?vital=heart_rate&limit=1").await;
    assert_eq!(history["items"][0]["value"], 82, "the first value stays");
}

#[tokio::test]
async fn an_answer_says_how_much_of_the_batch_was_kept() {
    let database = Database::new().await;
    let sender = Sender::start(&database).await;
    let bad = with(reading("101", 5), "value", 1_000);
    sender.store(&reading("101", 0)).await;
    // Nothing new, but nothing lost either: the good one is there.
    let answer = sender.send(json!([bad, reading("101", 0)]).to_string()).await;
    assert_eq!(answer.status, 207, "{}", answer.text);
    assert_eq!((&answer.json["stored"], &answer.json["duplicates"]), (&json!(0), &json!(1)));
    assert_eq!(answer.json["rejected"][0]["index"], 0);
    // All of it wrong.
    let answer = sender.send(json!([bad, {}, "x"]).to_string()).await;
    assert_problem(&answer, 422, "value_out_of_range");
    let codes: Vec<&str> = answer.json["rejected"]
        .as_array()
        .expect("rejected")
        .iter()
        .map(|rejected| rejected["code"].as_str().unwrap())
        .collect();
    assert_eq!(codes, ["value_out_of_range", "missing_field", "not_an_object"]);
}

#[tokio::test]
async fn a_suspect_reading_is_kept_and_marked_and_raises_nothing() {
    let database = Database::new().await;
    let sender = Sender::start(&database).await;
    let at = now() - TimeDelta::seconds(20);
    let of = |value: f64, second: i64| {
        let at = rfc3339(at + TimeDelta::seconds(second));
        with(with(reading("101", 0), "value", value), "measuredAt", at)
    };
    let expected =
        [(0.0, true), (19.9, true), (20.0, false), (120.0, false), (300.1, true), (400.0, true)];
    for (second, (value, suspect)) in expected.into_iter().enumerate() {
        assert_eq!(sender.store(&of(value, second as i64)).await, (1, 0));
        let newest = sender.found("/patients/101/heart-rate").await;
        assert_eq!(newest["heartRate"].as_f64(), Some(value));
        assert_eq!(newest["quality"], if suspect { "suspect" } else { "good" }, "{value}");
    }
    // The plausible one raises, and shows that the rule has judged those before it.
    sender.store(&of(130.0, 10)).await;
    let alert = eventually("the alert of 130", SOON, async || {
        let alerts = sender.found("/alerts?patientId=101").await;
        (!alerts["items"].as_array()?.is_empty()).then_some(alerts)
    })
    .await;
    assert_eq!(alert["items"].as_array().unwrap().len(), 1, "{alert}");
    assert_eq!(alert["items"][0]["value"], 130);
}

/// Whatever the door lets in has to come out again by every other door.
#[tokio::test]
async fn a_context_that_is_stored_is_also_shown() {
    let database = Database::new().await;
    let sender = Sender::start(&database).await;
    let contexts = [
        r#"{"posture":"upright"}"#.to_owned(),
        r#"{"note":"\u0000"}"#.to_owned(),
        r#"{"note":"\ud800"}"#.to_owned(),
        r#"{"huge":1e999}"#.to_owned(),
        format!(r#"{{"deep":{}{}}}"#, "[".repeat(500), "]".repeat(500)),
    ];
    for (i, context) in contexts.iter().enumerate() {
        let body = reading(&format!("c{i}"), 0).to_string();
        let body = format!("{},\"context\":{context}}}", body.strip_suffix('}').unwrap());
        let answer = sender.send(body).await;
        if answer.status.is_client_error() {
            assert_eq!(answer.json["pointer"], "/context", "{}", answer.text);
            continue;
        }
        assert_eq!(answer.status, 201, "{context}: {}", answer.text);
        let path = format!("/api/v1/patients/c{i}/replay?speed=max");
        let replay = get(&sender.server.url(&path), &sender.token).await;
        let context: String = context.chars().take(60).collect();
        assert!(replay.text.contains("event: reading"), "{context}: {}", replay.text);
    }
}

#[tokio::test]
async fn a_hundred_readings_at_once_from_many_are_all_stored_once() {
    let database = Database::new().await;
    let sender = Sender::start(&database).await;
    let url = sender.server.url("/api/v1/readings");
    // Every reading is sent by two at the same time; one of them was first.
    let sends = (0..100).flat_map(|i| [i, i]).map(|i| {
        let (url, token) = (url.clone(), sender.token.clone());
        tokio::spawn(async move { post(&url, &token, &reading("101", i)).await })
    });
    let (mut stored, mut duplicates) = (0, 0);
    for send in sends.collect::<Vec<_>>() {
        let answer = send.await.unwrap();
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        stored += answer.json["stored"].as_u64().unwrap();
        duplicates += answer.json["duplicates"].as_u64().unwrap();
    }
    assert_eq!((stored, duplicates), (100, 100));
    assert_eq!(sender.values("101").await.len(), 100);
}
