//! Devices that are not to be believed: while a technical alert stands on one, the rules
//! about the patient do not listen to it, and to all others as ever.

use std::slice::from_ref;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::Database;
use crate::support::server::Server;

/// A reading of a device, so many seconds after the beginning.
fn of(device: &str, vital: &str, value: f64, at: DateTime<Utc>) -> Value {
    let mut reading = heart_rate("101", value, at);
    reading["deviceId"] = device.into();
    reading["vital"] = vital.into();
    reading.as_object_mut().unwrap().remove("unit");
    reading
}

async fn write(hospital: &Hospital, id: &str, rule: Value) {
    let request = hospital.request(reqwest::Method::PUT, &format!("/rules/{id}"));
    let answer = request.json(&rule).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
}

/// The alerts that stand, by name: event, device and value.
async fn standing(hospital: &Hospital) -> Vec<(String, String, Value)> {
    let state = hospital.found("/patients/101").await;
    let text = |alert: &Value, key: &str| alert[key].as_str().unwrap().to_owned();
    let alerts = state["alerts"].as_array().unwrap().iter();
    let named = |a: &Value| (text(a, "event"), text(a, "deviceId"), a["value"].clone());
    let mut alerts: Vec<_> = alerts.map(named).collect();
    alerts.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    alerts
}

fn stands(event: &str, device: &str, value: f64) -> (String, String, Value) {
    let value = json!(value as i64);
    (event.to_owned(), device.to_owned(), value)
}

/// As it is shipped.
fn suspect_in(mode: &str) -> Value {
    json!({
        "id": "signal-suspect", "event": "SIGNAL_SUSPECT", "priority": "technical",
        "mode": mode, "when": { "suspect": {} }, "on_delay": "10s", "min_samples": 2,
        "clear": { "off_delay": "30s" },
    })
}

#[tokio::test]
async fn a_rule_about_devices_that_is_on_trial_keeps_nobody_from_being_heard() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    write(&hospital, "signal-suspect", suspect_in("shadow")).await;
    let start = now() - TimeDelta::seconds(60);
    let heart =
        |value, second| of("watch", "heart_rate", value, start + TimeDelta::seconds(second));
    hospital.store(&[heart(0.0, 0), heart(0.0, 10)]).await;
    hospital.store(&[heart(130.0, 11)]).await;
    assert_eq!(standing(&hospital).await, [stands("HIGH_HEART_RATE", "watch", 130.0)]);
    let tried = "select count(*) from event where type = 'alert_shadowed'";
    let tried: i64 = sqlx::query_scalar(tried).fetch_one(&database.pool()).await.unwrap();
    assert_eq!(tried, 1, "it would have told of the sensor");
}

#[tokio::test]
async fn a_sensor_that_fell_off_says_so_and_what_it_shows_pages_nobody_until_it_is_back() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    write(&hospital, "signal-suspect", suspect_in("active")).await;
    let start = now() - TimeDelta::seconds(70);
    let at = |second| start + TimeDelta::seconds(second);
    let heart = |device, value, second| of(device, "heart_rate", value, at(second));

    // One suspect reading is none yet: the device is believed.
    hospital.store(&[heart("watch", 0.0, 0), heart("watch", 130.0, 1)]).await;
    assert_eq!(standing(&hospital).await, [stands("HIGH_HEART_RATE", "watch", 130.0)]);
    hospital.store(&[heart("watch", 80.0, 2)]).await;
    assert_eq!(standing(&hospital).await, []);

    hospital.store(&[heart("watch", 0.0, 10), heart("watch", 0.0, 20)]).await;
    let off = stands("SIGNAL_SUSPECT", "watch", 0.0);
    assert_eq!(standing(&hospital).await, from_ref(&off));
    // It jitters, and nobody comes; the monitor beside it is listened to.
    hospital.store(&[heart("watch", 180.0, 21), heart("watch", 0.0, 22)]).await;
    assert_eq!(standing(&hospital).await, from_ref(&off));
    hospital.store(&[heart("monitor", 131.0, 23)]).await;
    let by_monitor = stands("HIGH_HEART_RATE", "monitor", 131.0);
    assert_eq!(standing(&hospital).await, [by_monitor.clone(), off.clone()]);
    // Nor does it end what another device has said.
    hospital.store(&[heart("watch", 80.0, 24)]).await;
    assert_eq!(standing(&hospital).await, [by_monitor, off.clone()]);
    hospital.store(&[heart("monitor", 81.0, 25)]).await;
    assert_eq!(standing(&hospital).await, [off]);

    // Believed again once it was sound for long enough, and from then on as ever.
    hospital.store(&[heart("watch", 82.0, 30), heart("watch", 82.0, 60)]).await;
    assert_eq!(standing(&hospital).await, []);
    hospital.store(&[heart("watch", 132.0, 61)]).await;
    assert_eq!(standing(&hospital).await, [stands("HIGH_HEART_RATE", "watch", 132.0)]);
}

#[tokio::test]
async fn a_device_that_lacks_a_vital_is_not_believed_in_others_until_it_sends_it_again() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let silent = json!({
        "id": "device-silent", "event": "DEVICE_SILENT", "priority": "technical",
        "mode": "active", "when": { "missing": { "vital": "spo2", "for": "60s" } },
    });
    write(&hospital, "device-silent", silent).await;
    let start = now() - TimeDelta::seconds(70);
    let at = |second| start + TimeDelta::seconds(second);

    // By the log's time it is silent already when it is heard of.
    hospital.store(&[of("oximeter", "spo2", 97.0, at(0))]).await;
    let silent = stands("DEVICE_SILENT", "oximeter", 97.0);
    assert_eq!(standing(&hospital).await, from_ref(&silent));
    hospital.store(&[of("oximeter", "heart_rate", 130.0, at(60))]).await;
    assert_eq!(standing(&hospital).await, from_ref(&silent));
    hospital.store(&[of("monitor", "heart_rate", 131.0, at(61))]).await;
    let by_monitor = stands("HIGH_HEART_RATE", "monitor", 131.0);
    assert_eq!(standing(&hospital).await, [silent, by_monitor.clone()]);
    // It is back: the silence is over. What another one raised is not its to clear.
    hospital.store(&[of("oximeter", "spo2", 97.0, now())]).await;
    assert_eq!(standing(&hospital).await, from_ref(&by_monitor));
    hospital.store(&[of("oximeter", "heart_rate", 80.0, now())]).await;
    assert_eq!(standing(&hospital).await, [by_monitor]);
    hospital.store(&[of("monitor", "heart_rate", 80.0, now())]).await;
    assert_eq!(standing(&hospital).await, []);
    hospital.store(&[of("oximeter", "heart_rate", 132.0, now())]).await;
    assert_eq!(standing(&hospital).await, [stands("HIGH_HEART_RATE", "oximeter", 132.0)]);
}
