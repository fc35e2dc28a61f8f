//! Devices in their registry: whom they measure from when on, as it is and as it was known; and
//! readings that name no patient.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::http::{post, send};
use crate::support::postgres::Database;
use crate::support::server::Server;

/// A heart rate of `watch-7` that names no patient.
fn unnamed(value: f64, at: DateTime<Utc>) -> Value {
    let mut reading = heart_rate("-", value, at);
    reading.as_object_mut().unwrap().remove("patientId");
    reading
}

async fn assign(hospital: &Hospital, patient: &str, from: DateTime<Utc>) -> Value {
    let body = json!({ "patientId": patient, "from": rfc3339(from) });
    let (status, body) = hospital.post("/devices/watch-7/assign", &body).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// Patient, from and until, without what else is said.
fn stretches(device: &Value) -> Vec<Value> {
    let of = |a: &Value| json!([a["patientId"], a["from"], a["to"]]);
    device["assignments"].as_array().unwrap().iter().map(of).collect()
}

fn token(server: &Server, claims: &[(&str, &str)]) -> String {
    server.token_with(|all| {
        all["tenant"] = "h".into();
        all["scope"] = "readings:write vitals:read".into();
        for (claim, value) in claims {
            all[*claim] = (*value).into();
        }
    })
}

#[tokio::test]
async fn a_device_is_at_one_patient_and_both_axes_tell_where_it_was_and_was_thought_to_be() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "h");
    let hour = |n: i64| now() - TimeDelta::hours(10 - n);
    let (one, two, three) = (hour(1), hour(3), hour(5));
    assign(&hospital, "anna", one).await;
    let device = assign(&hospital, "bert", three).await;
    let at = |patient: &str, from: DateTime<Utc>, to: Option<DateTime<Utc>>| {
        json!([patient, rfc3339(from), to.map(rfc3339)])
    };
    assert_eq!(stretches(&device), [at("anna", one, Some(three)), at("bert", three, None)]);
    assert_eq!(device["assignments"][0]["by"], "tester");
    let known = now();

    // Said later of an earlier time: what is known of it changes, what was known does not.
    assign(&hospital, "carl", two).await;
    assert_eq!(assign(&hospital, "carl", two).await, assign(&hospital, "carl", two).await);
    let path = "/devices/watch-7";
    let all = [at("anna", one, Some(two)), at("carl", two, Some(three)), at("bert", three, None)];
    assert_eq!(stretches(&hospital.found(path).await), all);
    let then = format!("{path}?knownAt={}", rfc3339(known));
    assert_eq!(stretches(&hospital.found(&then).await).len(), 2);
    for (as_of, more, patient) in [
        (two, String::new(), Some("carl")),
        (two, format!("&knownAt={}", rfc3339(known)), Some("anna")),
        (one - TimeDelta::seconds(1), String::new(), None),
        (three, String::new(), Some("bert")),
    ] {
        let device = hospital.found(&format!("{path}?asOf={}{more}", rfc3339(as_of))).await;
        let found = device["assignments"].as_array().unwrap();
        assert_eq!(found.first().map(|a| &a["patientId"]), patient.map(|p| json!(p)).as_ref());
    }
    let end = json!({ "from": rfc3339(hour(8)) });
    let (status, device) = hospital.post("/devices/watch-7/unassign", &end).await;
    assert_eq!((status, &device["assignments"][2]["to"]), (200, &end["from"]), "{device}");
    let request = hospital.request(Method::POST, "/devices/watch-7/unassign");
    assert_eq!(request.send().await.unwrap().status(), 200, "now, when nothing is said");

    for (body, code) in [
        (json!({ "from": rfc3339(one) }), "missing_field"),
        (json!({ "patientId": "a b" }), "invalid_id"),
        (json!({ "patientId": "anna", "from": "today" }), "invalid_time"),
        (json!({ "patientId": "anna", "from": "2999-01-01T00:00:00Z" }), "invalid_time"),
        (json!({ "patientId": "anna", "until": "x" }), "unknown_field"),
    ] {
        let (status, said) = hospital.post("/devices/watch-7/assign", &body).await;
        assert_eq!((status, &said["code"]), (422, &json!(code)), "{said}");
    }
    assert_eq!(Hospital::new(&server, "g").get(path).await.0, 404);
}

#[tokio::test]
async fn a_reading_that_names_no_patient_is_of_whom_the_device_was_at_when_it_measured() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "h");
    let url = server.url("/api/v1/readings");
    let watch = token(&server, &[("device", "watch-7")]);
    let minute = |n: i64| now() - TimeDelta::minutes(60 - n);
    let (first, second, third) = (minute(10), minute(20), minute(30));
    let none = post(&url, &watch, &unnamed(70.0, first)).await;
    assert_eq!((none.status.as_u16(), &none.json["code"]), (422, &json!("device_unassigned")));
    assert_eq!(none.json["pointer"], "/deviceId", "{}", none.text);

    assign(&hospital, "anna", first).await;
    assign(&hospital, "bert", second).await;
    let end = json!({ "from": rfc3339(third) });
    assert_eq!(hospital.post("/devices/watch-7/unassign", &end).await.0, 200);
    let micro = TimeDelta::microseconds(1);
    let batch = json!([
        unnamed(60.0, first - micro),
        unnamed(61.0, first),
        unnamed(900.0, first),
        unnamed(62.0, second - micro),
        heart_rate("carl", 63.0, second),
        unnamed(64.0, second),
        unnamed(65.0, third),
    ]);
    let stored = post(&url, &watch, &batch).await;
    assert_eq!(
        (stored.status.as_u16(), &stored.json["stored"]),
        (207, &json!(4)),
        "{}",
        stored.text
    );
    let refused: Vec<_> = stored.json["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["index"].as_u64().unwrap(), r["code"].as_str().unwrap().to_owned()))
        .collect();
    let unassigned = |n| (n, "device_unassigned".to_owned());
    assert_eq!(refused, [unassigned(0), (2, "value_out_of_range".to_owned()), unassigned(6)]);
    for (patient, value) in [("anna", 62), ("carl", 63), ("bert", 64)] {
        let found = hospital.found(&format!("/patients/{patient}/heart-rate")).await;
        assert_eq!(found["heartRate"], value, "{patient}");
    }
    // Lines as well; and again is a duplicate, also with the patient's name.
    let lines =
        [unnamed(61.0, first), unnamed(66.0, second + micro), heart_rate("bert", 64.0, second)];
    let lines = lines.map(|line| line.to_string()).join("\n");
    let client = server.client();
    let sent = client.post(&url).bearer_auth(&watch).header("content-type", "application/x-ndjson");
    let said: Value = sent.body(lines).send().await.unwrap().json().await.unwrap();
    assert_eq!((&said["stored"], &said["duplicates"]), (&json!(1), &json!(2)), "{said}");

    // Only the token of a device; and no further than it reaches.
    let gateway = post(&url, &token(&server, &[]), &unnamed(70.0, first)).await;
    assert_eq!((gateway.status.as_u16(), &gateway.json["code"]), (422, &json!("missing_field")));
    assert_eq!(gateway.json["pointer"], "/patientId");
    let narrow = token(&server, &[("device", "watch-7"), ("patient", "anna")]);
    let outside = post(&url, &narrow, &unnamed(70.0, second + micro * 2)).await;
    assert_eq!((outside.status.as_u16(), &outside.json["code"]), (403, &json!("outside_token")));
    let inside = post(&url, &narrow, &unnamed(70.0, first + micro)).await;
    assert_eq!(inside.status.as_u16(), 201, "{}", inside.text);
    let other = server.token_with(|claims| {
        claims["tenant"] = "g".into();
        claims["scope"] = "readings:write".into();
        claims["device"] = "watch-7".into();
    });
    let other = post(&url, &other, &unnamed(70.0, first)).await;
    assert_eq!((other.status.as_u16(), &other.json["code"]), (422, &json!("device_unassigned")));
    follows_at_once(&database, &hospital, &watch).await;
}

/// As soon as it is assigned elsewhere, by another process too.
async fn follows_at_once(database: &Database, hospital: &Hospital, watch: &str) {
    let second_server = Server::start(database).await;
    for n in 0..10 {
        let (patient, at) = (format!("p{n}"), now() - TimeDelta::milliseconds(1));
        assign(hospital, &patient, at).await;
        let url = second_server.url("/api/v1/readings");
        let stored = post(&url, watch, &unnamed(80.0 + f64::from(n), at)).await;
        assert_eq!(stored.status.as_u16(), 201, "{}", stored.text);
        let found = hospital.found(&format!("/patients/{patient}/heart-rate")).await;
        assert_eq!(found["heartRate"], 80 + n);
    }
}

/// Who sees one patient learns nothing of others; who has no right changes nothing.
async fn is_told_to_nobody_else(server: &Server) {
    let of_bert = token(server, &[("patient", "bert")]);
    let get = async |token: &str| {
        send(Method::GET, &server.url("/api/v1/devices/watch-7"), token, None).await
    };
    assert_eq!(get(&of_bert).await.status, 404);
    assert!(get(&token(server, &[("patient", "anna")])).await.text.contains("ble-1"));
    for (method, path) in
        [(Method::PUT, ""), (Method::POST, "/assign"), (Method::POST, "/reassign")]
    {
        let url = server.url(&format!("/api/v1/devices/watch-7{path}"));
        let refused = send(method, &url, &of_bert, Some(b"{}".to_vec())).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json["code"]),
            (403, &json!("scope_missing"))
        );
    }
}

#[tokio::test]
async fn an_alias_is_one_devices_alone_and_is_assigned_with_it() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "h");
    let watch = json!({
        "model": "Watch 7", "vitals": ["heart_rate", "spo2"], "intervalSeconds": 30,
        "aliases": ["ble-1", "ble-2"],
    });
    let (status, device) = hospital.put("/devices/watch-7", &watch).await;
    assert_eq!(status, 200, "{device}");
    for key in ["model", "vitals", "intervalSeconds", "aliases"] {
        assert_eq!(device["registered"][key], watch[key], "{device}");
    }
    let (_, again) = hospital.put("/devices/watch-7", &watch).await;
    assert_eq!(again, device, "nothing has changed");
    for (path, body, status, code) in [
        ("/devices/watch-8", json!({ "aliases": ["ble-2"] }), 409, "alias_taken"),
        ("/devices/watch-8", json!({ "aliases": ["watch-7"] }), 409, "alias_taken"),
        ("/devices/watch-8", json!({ "aliases": ["watch-8"] }), 409, "alias_taken"),
        ("/devices/ble-1", json!({}), 409, "device_is_alias"),
        ("/devices/watch-8", json!({ "aliases": ["a b"] }), 422, "invalid_id"),
        ("/devices/watch-8", json!({ "aliases": vec!["x"; 17] }), 422, "too_many_aliases"),
        ("/devices/watch-8", json!({ "model": "" }), 422, "invalid_text"),
        ("/devices/watch-8", json!({ "intervalSeconds": 0 }), 422, "invalid_interval"),
        ("/devices/watch-8", json!({ "vitals": ["mood"] }), 422, "unknown_vital"),
    ] {
        let (found, said) = hospital.put(path, &body).await;
        assert_eq!((found, &said["code"]), (status, &json!(code)), "{body}: {said}");
    }
    let assigned = json!({ "patientId": "anna" });
    let (status, said) = hospital.post("/devices/ble-1/assign", &assigned).await;
    assert_eq!((status, &said["code"]), (409, &json!("device_is_alias")), "{said}");

    // Stored under the id that it came with; whose it is, is the device's to say.
    let start = now() - TimeDelta::minutes(5);
    assign(&hospital, "anna", start).await;
    let mut reading = unnamed(70.0, start);
    reading["deviceId"] = "ble-1".into();
    let url = server.url("/api/v1/readings");
    let by =
        async |device: &str| post(&url, &token(&server, &[("device", device)]), &reading).await;
    assert_eq!(by("watch-7").await.json["code"], "outside_token", "a token is for one id");
    assert_eq!(by("ble-1").await.status, 201);
    assert_eq!(hospital.found("/patients/anna/heart-rate").await["deviceId"], "ble-1");
    let device = hospital.found("/devices/watch-7").await;
    assert_eq!(device["patients"][0]["deviceId"], "ble-1", "{device}");
    assert_eq!(device["patients"][0]["assigned"], true, "{device}");
    assert_eq!(device["patients"][0]["intervalSeconds"], 30, "{device}");
    let alias = hospital.found("/devices/ble-1").await;
    assert_eq!((&alias["aliasOf"], stretches(&alias).len()), (&json!("watch-7"), 1), "{alias}");
    assert_eq!(hospital.found("/devices").await["items"][0]["assigned"], true);

    // Given up, it can be another one's; two that want it at once do not both get it.
    let (_, device) = hospital.put("/devices/watch-7", &json!({ "aliases": ["ble-1"] })).await;
    assert_eq!(device["registered"]["aliases"], json!(["ble-1"]));
    let wanted = json!({ "aliases": ["ble-2"] });
    let (one, two) = tokio::join!(
        hospital.put("/devices/watch-8", &wanted),
        hospital.put("/devices/watch-9", &wanted)
    );
    let mut statuses = [one.0, two.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    is_told_to_nobody_else(&server).await;
}
