//! Devices, from outside: heard of, expected, covered.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::http::get;
use crate::support::postgres::Database;
use crate::support::server::Server;

/// What is learnt of a device by readings at these seconds, each of several vitals.
async fn learnt(hospital: &Hospital, device: &str, vitals: &[&str], seconds: &[f64]) -> Value {
    let start = now() - TimeDelta::minutes(100);
    let mut readings = Vec::new();
    for at in seconds {
        for vital in vitals {
            let at = start + TimeDelta::milliseconds((at * 1_000.0) as i64);
            let mut reading = heart_rate("p", 60.0, at);
            reading["vital"] = (*vital).into();
            reading["deviceId"] = device.into();
            reading.as_object_mut().unwrap().remove("unit");
            readings.push(reading);
        }
    }
    hospital.store(&readings).await;
    hospital.found(&format!("/devices/{device}")).await["patients"][0].clone()
}

#[tokio::test]
async fn an_interval_is_learnt_as_it_is_sent_and_by_ten_gaps_at_least() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "h");
    let every = |seconds: f64, count: i32| -> Vec<f64> {
        (0..count).map(|n| f64::from(n) * seconds).collect()
    };
    let some = ["heart_rate", "spo2", "respiratory_rate"];
    for (device, vitals, seconds, interval) in [
        ("one-a-second", &some[..], every(1.0, 90), json!(1)),
        ("short", &some[..1], every(1.0, 11), json!(1)),
        ("too-short", &some[..1], every(1.0, 10), Value::Null),
        ("quick", &some[..1], every(0.25, 200), json!(0.25)),
        ("between", &some[..1], every(90.0, 40), json!(90)),
        ("slow", &some[..1], every(300.0, 15), json!(300)),
        ("once", &some[..1], every(1.0, 1), Value::Null),
        // Half of it is missing, in holes.
        (
            "holes",
            &some[..1],
            every(2.0, 300).into_iter().filter(|s| (s / 50.0).floor() % 2.0 == 0.0).collect(),
            json!(2),
        ),
        // Its clock is not quite even.
        (
            "jitter",
            &some[..1],
            (0..60).map(|n| f64::from(n) * 5.0 + f64::from(n % 3) * 0.004).collect(),
            json!(5),
        ),
    ] {
        let told = learnt(&hospital, device, vitals, &seconds).await;
        assert_eq!(told["intervalSeconds"], interval, "{told}");
        let from = if interval.is_null() { Value::Null } else { json!("learnt") };
        assert_eq!(told["intervalFrom"], from, "{told}");
        assert_eq!(told["coverage"].is_null(), interval.is_null(), "{told}");
    }
}

#[tokio::test]
async fn a_device_is_told_with_what_was_expected_of_it_and_what_came() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "h");
    let start = now() - TimeDelta::minutes(150);
    // Each minute for two hours, half an hour of it missing.
    let minutes: Vec<i64> = (0..120).filter(|n| !(40..70).contains(n)).collect();
    let readings: Vec<_> =
        minutes.iter().map(|n| heart_rate("p", 70.0, start + TimeDelta::minutes(*n))).collect();
    hospital.store(&readings).await;
    let mut cuff = heart_rate("p", 71.0, start);
    cuff["deviceId"] = "cuff".into();
    hospital.store(&[cuff]).await;

    let devices = hospital.found("/devices?patientId=p").await;
    let ids: Vec<_> = devices["items"].as_array().unwrap().iter().map(|d| &d["deviceId"]).collect();
    assert_eq!(ids, ["cuff", "watch-7"]);
    let watch = &devices["items"][1];
    assert_eq!(watch["lastSeen"], rfc3339(start + TimeDelta::minutes(119)));
    assert_eq!((&watch["intervalSeconds"], &watch["intervalFrom"]), (&json!(60), &json!("learnt")));
    assert_eq!((&watch["coverage"], &watch["readings"]), (&json!(0.75), &json!(90)));
    let delay = watch["delaySeconds"].as_f64().unwrap();
    assert!((1800.0..2000.0).contains(&delay), "{delay}");

    // What was registered counts more than what was shown.
    let record = json!({ "devices": { "watch-7": { "intervalSeconds": 30 }, "cuff": {} } });
    let registered = hospital.request(Method::PUT, "/patients/p").json(&record).send().await;
    assert_eq!(registered.unwrap().status(), 200);
    let watch = hospital.found("/devices/watch-7").await["patients"][0].clone();
    assert_eq!(
        (&watch["intervalSeconds"], &watch["intervalFrom"]),
        (&json!(30), &json!("registered"))
    );

    // Page by page, and nobody else's.
    let first = hospital.found("/devices?limit=1").await;
    let next = format!("/devices?limit=1&cursor={}", first["next"].as_str().unwrap());
    assert_eq!(hospital.found(&next).await["items"][0]["deviceId"], "watch-7");
    assert_eq!(hospital.get("/devices/none").await.0, 404);
    assert_eq!(Hospital::new(&server, "g").get("/devices/watch-7").await.0, 404);
    let narrowed = server.token_with(|claims| {
        claims["tenant"] = "h".into();
        claims["scope"] = "vitals:read".into();
        claims["device"] = "cuff".into();
    });
    assert_eq!(get(&server.url("/api/v1/devices/watch-7"), &narrowed).await.status, 403);
    let own = get(&server.url("/api/v1/devices"), &narrowed).await;
    assert_eq!(own.json["items"].as_array().unwrap().len(), 1);
    let unscoped = server.token("alerts:read");
    assert_eq!(get(&server.url("/api/v1/devices"), &unscoped).await.status, 403);
    assert_eq!(get(&server.url("/api/v1/devices"), "").await.status, 401);
}
