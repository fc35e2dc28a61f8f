//! Callers who see some wards only: whom they see, and that it changes with a transfer, at
//! once, on every instance and in a stream that is open.

use std::time::Duration;

use chrono::TimeDelta;
use reqwest::Response;
use serde_json::{Value, json};

use vitals::auth::Scope;
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::{Database, caught_up};
use crate::support::server::{Server, TENANT, cli};
use crate::support::{eventually, http, scratch_dir};

const SOON: Duration = Duration::from_secs(30);

async fn place(hospital: &Hospital, patient: &str, ward: &Value) {
    let path = format!("/patients/{patient}/record");
    let (status, answer) = hospital.patch(&path, &json!({ "ward": ward })).await;
    assert_eq!(status, 200, "{answer}");
}

/// With every scope, in these wards.
fn nurse(server: &Server, wards: &Value) -> Hospital {
    Hospital::new(server, TENANT).with_token(server.token_with(|claims| {
        claims["scope"] = Scope::ALL.map(Scope::name).join(" ").into();
        claims["wards"] = wards.clone();
    }))
}

fn patients(list: &Value) -> Vec<String> {
    let id = |item: &Value| item["patientId"].as_str().unwrap().to_owned();
    list["items"].as_array().unwrap().iter().map(id).collect()
}

/// Three patients, of whom one has no ward; each with an alert.
async fn filled() -> (Database, Server, Hospital) {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, TENANT);
    place(&hospital, "in-icu", &json!("icu")).await;
    place(&hospital, "in-7b", &json!("7b")).await;
    for patient in ["in-icu", "in-7b", "nowhere"] {
        let mut reading = heart_rate(patient, 130.0, now());
        reading["deviceId"] = format!("watch-{patient}").into();
        hospital.store(&[reading]).await;
    }
    eventually("three alerts", SOON, async || {
        let found = hospital.found("/alerts").await;
        (found["items"].as_array().unwrap().len() == 3).then_some(())
    })
    .await;
    caught_up(&database.pool()).await;
    (database, server, hospital)
}

#[tokio::test]
async fn lists_hold_who_lies_in_ones_wards_and_all_others_do_not_exist() {
    let (_database, server, hospital) = filled().await;
    let at = rfc3339(now());
    let lists = ["/patients", "/patients?ward=icu", "/alerts", "/devices", "/alerts?state=active"];
    let moment = format!("/patients?asOf={at}");
    for wards in [json!(["icu"]), json!("icu elsewhere"), json!(["elsewhere", "icu"])] {
        let nurse = nurse(&server, &wards);
        for list in lists.iter().copied().chain([&*moment]) {
            assert_eq!(patients(&nurse.found(list).await), ["in-icu"], "{list} in {wards}");
        }
    }
    let both = nurse(&server, &json!(["icu", "7b"]));
    assert_eq!(patients(&both.found("/patients").await), ["in-7b", "in-icu"]);
    // No ward is none, and neither is one where nobody lies.
    for wards in [json!([]), json!(""), json!("ICU")] {
        let nurse = nurse(&server, &wards);
        for list in lists {
            assert_eq!(patients(&nurse.found(list).await), [""; 0], "{list} in {wards}");
        }
    }
    let icu = nurse(&server, &json!("icu"));
    assert_eq!(icu.found("/").await["wards"], json!(["icu"]));
    let other = icu.found("/wards/7b").await;
    let empty = icu.found("/wards/empty").await;
    assert_eq!((&other["patients"], &other["alerts"]), (&empty["patients"], &json!(0)));
    assert_eq!(icu.found("/wards/icu").await["patients"].as_array().unwrap().len(), 1);
    // Others are answered to the letter as who does not exist.
    let alerts = hospital.found("/alerts?patientId=in-7b").await;
    let alert = alerts["items"][0]["id"].as_str().unwrap();
    for (theirs, nothing) in [
        ("/patients/in-7b", "/patients/nobody"),
        ("/patients/nowhere", "/patients/nobody"),
        ("/patients/in-7b/heart-rate", "/patients/nobody/heart-rate"),
        ("/patients/%69n-7b/record", "/patients/nobody/record"),
        ("/alerts?patientId=in-7b", "/alerts?patientId=nobody"),
        ("/devices/watch-in-7b", "/devices/nothing"),
        (&format!("/alerts/{alert}"), &format!("/alerts/{}", uuid::Uuid::nil())),
    ] {
        let (theirs, nothing) = (icu.get(theirs).await, icu.get(nothing).await);
        let expected = nothing.1.to_string().replace("nobody", "in-7b");
        assert_eq!((theirs.0, theirs.1.to_string()), (nothing.0, expected));
    }
    // Nobody is made a patient of from outside, nor fetched in.
    for patient in ["in-7b", "nobody"] {
        let path = format!("/patients/{patient}/record");
        assert_eq!(icu.put(&path, &json!({ "ward": "icu" })).await.0, 404, "{patient}");
    }
    let (status, answer) = icu.post("/readings", &heart_rate("in-7b", 75.0, now())).await;
    assert_eq!((status, &answer["code"]), (403, &json!("outside_token")), "{answer}");
    let mixed: Vec<Value> =
        ["in-7b", "in-icu", "nobody"].map(|id| heart_rate(id, 75.0, now())).to_vec();
    let (status, answer) = icu.post("/readings", &json!(mixed)).await;
    assert_eq!((status, &answer["stored"]), (207, &json!(1)), "{answer}");
    assert_eq!(answer["rejected"][1]["pointer"], "/2/patientId", "{answer}");
}

#[tokio::test]
async fn a_transfer_holds_from_its_answer_on_with_every_instance() {
    let (database, server, hospital) = filled().await;
    let other = Server::start(&database).await;
    let (here, there) = (nurse(&server, &json!("icu")), nurse(&other, &json!("icu")));
    let of_7b = nurse(&other, &json!(["7b"]));
    assert_eq!(
        (here.get("/patients/in-icu").await.0, there.get("/patients/in-icu").await.0),
        (200, 200)
    );
    for n in 0..5 {
        let (ward, status) = if n % 2 == 0 { ("7b", 404) } else { ("icu", 200) };
        place(&hospital, "in-icu", &json!(ward)).await;
        for (who, status) in [(&here, status), (&there, status), (&of_7b, 604 - status)] {
            for path in ["", "/record", "/heart-rate", "/readings"] {
                let path = format!("/patients/in-icu{path}");
                assert_eq!(who.get(&path).await.0, status, "{n} {path}");
            }
            let listed = patients(&who.found("/patients").await);
            assert_eq!(listed.contains(&"in-icu".to_owned()), status == 200, "{n}");
        }
    }
    // Who moves a patient away has done it, and sees them no more.
    let (status, _) = of_7b.patch("/patients/in-icu/record", &json!({ "ward": "icu" })).await;
    assert_eq!((status, of_7b.get("/patients/in-icu").await.0), (200, 404));
}

#[tokio::test]
async fn a_list_leaves_out_who_was_moved_away_also_where_the_folds_are_behind() {
    let (database, server, hospital) = filled().await;
    let icu = nurse(&server, &json!("icu"));
    let pool = database.pool();
    // Nobody folds: the directory says what it said.
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select from checkpoint where consumer = 'projection:current_vitals' for update")
        .fetch_all(&mut *tx)
        .await
        .unwrap();
    place(&hospital, "in-icu", &json!("7b")).await;
    for list in ["/patients", "/alerts", "/devices"] {
        let (status, found) = icu.get(list).await;
        assert_eq!((status, patients(&found)), (200, Vec::<String>::new()), "{list}");
    }
    tx.rollback().await.unwrap();
}

async fn stream(hospital: &Hospital, from: Option<&str>) -> Response {
    let request = hospital.request(reqwest::Method::GET, "/stream?types=reading");
    let request = match from {
        Some(id) => request.header("last-event-id", id),
        None => request,
    };
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer
}

/// Values that come, until this one; and the id of the last.
async fn values_until(stream: &mut Response, last: f64) -> (Vec<f64>, String) {
    let (mut text, mut values, mut id) = (String::new(), Vec::new(), String::new());
    let reading = async {
        while values.last() != Some(&last) {
            let chunk = stream.chunk().await.unwrap().expect("it goes on");
            text.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some((event, rest)) = text.split_once("\n\n") {
                for line in event.lines() {
                    if let Some(of) = line.strip_prefix("id: ") {
                        id = of.to_owned();
                    }
                    if let Some(data) = line.strip_prefix("data: ") {
                        let data: Value = serde_json::from_str(data).unwrap();
                        values.extend(data["value"].as_f64());
                    }
                }
                text = rest.to_owned();
            }
        }
    };
    tokio::time::timeout(SOON, reading).await.expect("the last value");
    (values, id)
}

#[tokio::test]
async fn an_open_stream_follows_transfers_in_the_logs_order_on_every_instance() {
    let (database, server, hospital) = filled().await;
    let other = Server::start(&database).await;
    let mut of_icu = stream(&nurse(&server, &json!("icu")), None).await;
    let mut of_7b = stream(&nurse(&other, &json!("7b")), None).await;
    let mut of_all = stream(&hospital, None).await;
    let measure = async |patient: &str, value: f64| {
        hospital.measure(patient, value).await;
    };
    measure("in-icu", 81.0).await;
    place(&hospital, "in-icu", &json!("7b")).await;
    measure("in-icu", 82.0).await;
    measure("nowhere", 83.0).await;
    place(&hospital, "in-icu", &json!("icu")).await;
    measure("in-icu", 84.0).await;
    place(&hospital, "in-icu", &Value::Null).await;
    measure("in-icu", 85.0).await;
    // Of the same patient, so that it comes after all that is of them.
    place(&hospital, "in-icu", &json!("icu")).await;
    measure("in-icu", 86.0).await;
    place(&hospital, "in-icu", &json!("7b")).await;
    measure("in-icu", 87.0).await;
    assert_eq!(values_until(&mut of_icu, 86.0).await.0, [81.0, 84.0, 86.0]);
    assert_eq!(values_until(&mut of_7b, 87.0).await.0, [82.0, 87.0]);
    let (all, _) = values_until(&mut of_all, 87.0).await;
    assert_eq!(all.len(), 7, "who has no wards hears all: {all:?}");
}

#[tokio::test]
async fn what_is_resumed_is_of_who_lies_there_now() {
    let (_database, server, hospital) = filled().await;
    let icu = nurse(&server, &json!("icu"));
    let mut first = stream(&icu, None).await;
    hospital.measure("in-icu", 81.0).await;
    let (_, id) = values_until(&mut first, 81.0).await;
    drop(first);
    // Measured before they left and after others came.
    hospital.measure("in-icu", 82.0).await;
    place(&hospital, "in-icu", &json!("7b")).await;
    hospital.measure("in-7b", 83.0).await;
    place(&hospital, "in-7b", &json!("icu")).await;
    hospital.measure("in-7b", 84.0).await;
    let mut again = stream(&icu, Some(&id)).await;
    assert_eq!(values_until(&mut again, 84.0).await.0, [83.0, 84.0]);
}

#[tokio::test]
async fn a_replay_ends_when_its_patient_is_moved_away() {
    let (_database, server, hospital) = filled().await;
    let icu = nurse(&server, &json!("icu"));
    // An hour at ten times its speed takes longer than this test.
    let readings: Vec<Value> = (0..1_200)
        .map(|n| heart_rate("in-icu", 80.0, now() - TimeDelta::seconds(3_600 - 3 * n)))
        .collect();
    hospital.store(&readings).await;
    let request = icu.request(reqwest::Method::GET, "/patients/in-icu/replay?speed=10");
    let mut replay = request.send().await.unwrap();
    assert_eq!(replay.status(), 200);
    assert!(replay.chunk().await.unwrap().is_some());
    place(&hospital, "in-icu", &json!("7b")).await;
    let ended = async { while replay.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(SOON, ended).await.expect("it ends");
}

const MAP: &str = r#"
claims = ["groups"]
tenant = "hospital-1"

[[grant]]
value = "icu-nurses"
role = "nurse"
wards = ["icu"]

[[grant]]
value = "7b-viewers"
role = "viewer"
wards = ["7b"]

[[grant]]
value = "doctors"
role = "viewer"

[[grant]]
value = "rule-writers"
scope = "rules:manage"
"#;

#[tokio::test]
async fn groups_give_the_wards_of_all_of_them_and_none_widens_what_another_gives() {
    let (database, _server, hospital) = filled().await;
    let dir = scratch_dir();
    let file = dir.join("roles.toml");
    std::fs::write(&file, MAP).unwrap();
    let options = ["--jwt-roles", file.to_str().unwrap()];
    let server = Server::try_start_in(&dir, Some(&database.url), &options).await.unwrap();
    let alerts = hospital.found("/alerts?patientId=in-7b").await;
    let ack = format!("/alerts/{}/ack", alerts["items"][0]["id"].as_str().unwrap());
    // Groups, other claims, whom they see, whether they answer an alert of 7b, and write rules.
    for (groups, more, seen, may_answer, rules) in [
        (json!(["icu-nurses"]), json!({}), vec!["in-icu"], 404, 403),
        (json!(["icu-nurses", "7b-viewers"]), json!({}), vec!["in-7b", "in-icu"], 404, 403),
        (json!(["icu-nurses", "rule-writers"]), json!({}), vec!["in-icu"], 404, 200),
        (json!(["icu-nurses", "unknown"]), json!({}), vec!["in-icu"], 404, 403),
        (json!(["icu-nurses", "doctors"]), json!({}), vec!["in-7b", "in-icu", "nowhere"], 404, 403),
        (json!(["doctors"]), json!({ "wards": "7b" }), vec!["in-7b"], 403, 403),
        (json!(["icu-nurses"]), json!({ "wards": ["7b"] }), vec![], 404, 403),
        // What an application may is no way out of a ward.
        (
            json!(["icu-nurses"]),
            json!({ "scope": "vitals:read rules:manage" }),
            vec!["in-icu"],
            404,
            403,
        ),
    ] {
        let who = Hospital::new(&server, TENANT).with_token(server.token_with(|claims| {
            claims.as_object_mut().unwrap().remove("scope");
            claims["groups"] = groups.clone();
            claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        }));
        assert_eq!(patients(&who.found("/patients").await), seen, "{groups} {more}");
        let (status, answer) = who.post(&ack, &json!({ "by": "a nurse" })).await;
        assert_eq!(status, may_answer, "{groups} {more}: {answer}");
        assert_eq!(who.get("/rules").await.0, rules, "{groups} {more}");
    }
}

#[tokio::test]
async fn a_token_of_wards_is_made_at_the_command_line_and_what_is_none_is_refused() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let args = ["token", "--tenant", TENANT, "--subject", "n", "--scope", "vitals:read"];
    let made = cli(&database, &[&args[..], &["--ward", "icu", "--ward", "7 B"]].concat()).await;
    let token = String::from_utf8(made.stdout).unwrap();
    let claims = token.split('.').nth(1).unwrap();
    let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims);
    let claims: Value = serde_json::from_slice(&claims.unwrap()).unwrap();
    assert_eq!(claims["wards"], json!(["icu", "7 B"]));
    let refused = cli(&database, &[&args[..], &["--ward", " "]].concat()).await;
    assert!(!refused.status.success());
    // What cannot be read is no token, and not one for all wards.
    for wards in [json!(7), json!({ "icu": true }), json!([7]), Value::Null, json!(["a\u{7}"])] {
        let token = server.token_with(|claims| {
            claims["scope"] = "vitals:read".into();
            claims["wards"] = wards.clone();
        });
        let answer = http::get(&server.url("/api/v1/patients"), &token).await;
        assert_eq!(answer.status, 401, "{wards}: {}", answer.text);
    }
}
