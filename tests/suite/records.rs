//! What a patient's record says, who may say it, and that nothing which steers an alarm is
//! lost or passed over without a word.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, now};
use crate::support::http::{get, send};
use crate::support::postgres::Database;
use crate::support::server::Server;

const RECORD: &str = "/patients/p/record";

async fn put(hospital: &Hospital, path: &str, body: &Value) -> (u16, Value) {
    let answer = hospital.request(Method::PUT, path).json(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn scene() -> (Database, Server, Hospital) {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    (database, server, hospital)
}

#[tokio::test]
async fn a_token_for_reading_switches_no_alarm_off() {
    let (_database, server, hospital) = scene().await;
    let record = json!({ "ward": "4B", "limits": { "heart_rate_high": 110 } });
    assert_eq!(put(&hospital, RECORD, &record).await.0, 200);
    let reader = hospital.with_token(server.token("vitals:read alerts:ack rules:manage"));
    let off = json!({ "limits": { "heart_rate_high": { "value": 180 } } });
    for path in ["/patients/p", RECORD] {
        let (status, problem) = put(&reader, path, &off).await;
        assert_eq!((status, &problem["code"]), (403, &json!("scope_missing")), "{path}");
    }
    assert_eq!(reader.patch(RECORD, &off).await.0, 403);
    assert_eq!(reader.get(RECORD).await.1["limits"], record["limits"]);
    // A bedside's or a patient's own token is no clinician's.
    for narrow in ["device", "patient"] {
        let token = server.token_with(|claims| {
            claims["scope"] = "patients:manage vitals:read".into();
            claims[narrow] = "p".into();
        });
        let narrowed = hospital.with_token(token);
        assert_eq!(narrowed.patch(RECORD, &off).await.0, 403, "{narrow}");
        let (status, _) = narrowed.get(RECORD).await;
        assert_eq!(status, if narrow == "device" { 403 } else { 200 });
    }
    // Who writes need not be able to read.
    let writer = hospital.with_token(server.token("patients:manage"));
    assert_eq!(writer.patch(RECORD, &json!({ "bed": "3" })).await.0, 200);
    assert_eq!(writer.get(RECORD).await.0, 403);
}

#[tokio::test]
async fn what_steers_an_alarm_is_not_erased_by_leaving_it_out() {
    let (_database, _server, hospital) = scene().await;
    let record = json!({
        "ward": "4B", "bed": "12", "birthDate": "1950-04-30", "spo2Scale": 2,
        "limits": { "spo2_low": 85, "heart_rate_high": { "value": 140, "by": "dr-b" } },
    });
    assert_eq!(put(&hospital, RECORD, &record).await.0, 200);
    for path in [RECORD, "/patients/p"] {
        let (status, problem) = put(&hospital, path, &json!({})).await;
        let erased = json!(["ward", "birthDate", "spo2Scale", "limits"]);
        assert_eq!(
            (status, &problem["code"], &problem["erases"]),
            (422, &json!("would_erase"), &erased)
        );
        let (status, _) = put(&hospital, path, &json!({ "ward": "5A" })).await;
        assert_eq!(status, 422);
    }
    let found = hospital.found(RECORD).await;
    assert_eq!((&found["ward"], &found["limits"]), (&json!("4B"), &record["limits"]));

    // A part is changed by PATCH; null removes; a limit is one thing.
    let patch = json!({ "ward": "5A", "bed": null, "limits": { "heart_rate_high": 150 } });
    let (status, patched) = hospital.patch(RECORD, &patch).await;
    assert_eq!((status, &patched["ward"], patched.get("bed")), (200, &json!("5A"), None));
    assert_eq!(patched["limits"], json!({ "spo2_low": 85, "heart_rate_high": 150 }));
    assert_eq!(patched["birthDate"], "1950-04-30");

    // What was answered may be sent back as it came, and is no change.
    let (status, again) = put(&hospital, RECORD, &patched).await;
    assert_eq!((status, &again), (200, &patched));
    assert_eq!(again["_changed"]["by"], "tester");

    // To say null is to mean it.
    let said = json!({ "ward": "5A", "birthDate": null, "spo2Scale": null, "limits": null });
    let (status, left) = put(&hospital, RECORD, &said).await;
    assert_eq!((status, left.get("limits"), left.get("spo2Scale")), (200, None, None), "{left}");
    assert_eq!(hospital.found("/patients/p").await["ward"], "5A");
}

#[tokio::test]
async fn changes_at_one_moment_are_made_one_of_the_other() {
    let (_database, _server, hospital) = scene().await;
    hospital.measure("p", 80.0).await;
    let limits = ["heart_rate_high", "heart_rate_low", "spo2_low", "body_temperature_high"];
    let values = [150, 40, 85, 40];
    let patches = limits.iter().zip(values).map(|(limit, value)| {
        let (hospital, patch) = (hospital.clone(), json!({ "limits": { *limit: value } }));
        async move { hospital.patch(RECORD, &patch).await.0 }
    });
    assert_eq!(futures_util::future::join_all(patches).await, [200; 4]);
    let found = hospital.found(RECORD).await;
    for (limit, value) in limits.iter().zip(values) {
        assert_eq!(found["limits"][limit], value, "{found}");
    }
}

#[tokio::test]
async fn a_key_that_nobody_reads_is_refused_with_its_place() {
    let (_database, _server, hospital) = scene().await;
    for (record, code, pointer) in [
        (json!({ "spo2scale": 2 }), "unknown_field", "/spo2scale"),
        (json!({ "limit": {} }), "unknown_field", "/limit"),
        (
            json!({ "limits": { "heart_rate_hihg": 180 } }),
            "invalid_limit_of_patient",
            "/limits/heart_rate_hihg",
        ),
        (
            json!({ "limits": { "heart_rate_high": { "value": 180, "expires": rfc3339(now()) } } }),
            "invalid_limit_of_patient",
            "/limits/heart_rate_high/expires",
        ),
        (json!({ "birthDate": "2050-01-01" }), "invalid_birth_date", "/birthDate"),
        (json!({ "birthDate": "+262142-01-01" }), "invalid_birth_date", "/birthDate"),
        (json!({ "birthDate": " 1950-04-30" }), "invalid_birth_date", "/birthDate"),
        (json!({ "birthDate": "1950-4-3" }), "invalid_birth_date", "/birthDate"),
        (json!({ "ward": "4B " }), "invalid_ward", "/ward"),
        (json!({ "extra": { "note": "\u{0}" } }), "nul_character", "/extra/note"),
        (json!({ "patientId": "q" }), "invalid_id", "/patientId"),
    ] {
        for answer in [put(&hospital, RECORD, &record).await, hospital.patch(RECORD, &record).await]
        {
            let (status, problem) = answer;
            let said = (&problem["code"], &problem["pointer"]);
            assert_eq!(
                (status, said),
                (422, (&json!(code), &json!(pointer))),
                "{record}: {problem}"
            );
        }
    }
    assert_eq!(hospital.get(RECORD).await.0, 404);
    let free = json!({ "extra": { "expires": "never", "limits": [1, null] } });
    assert_eq!(put(&hospital, RECORD, &free).await.0, 200);
    assert_eq!(hospital.found(RECORD).await["extra"], free["extra"]);
}

#[tokio::test]
async fn so_is_one_of_everything_else_that_steers_an_alarm() {
    let (_database, server, _) = scene().await;
    let id = "00000000-0000-0000-0000-000000000000";
    let until = rfc3339(now() + TimeDelta::hours(1));
    for (method, path, body, pointer) in [
        (
            "POST",
            "/webhooks",
            json!({ "url": "http://127.0.0.1:9/", "events": ["*"], "fallbck": true }),
            "/fallbck",
        ),
        ("PATCH", &format!("/webhooks/{id}"), json!({ "heartbeet": "60s" }), "/heartbeet"),
        ("POST", &format!("/webhooks/{id}/rotate-secret"), json!({ "sekret": "x" }), "/sekret"),
        ("POST", &format!("/webhooks/{id}/replay"), json!({ "from": until, "til": until }), "/til"),
        (
            "POST",
            "/silences",
            json!({ "rule": "r", "reason": "x", "until": until, "patient": "p" }),
            "/patient",
        ),
        ("POST", "/rules/backtest", json!({ "rule": {}, "againts": "active" }), "/againts"),
        ("POST", &format!("/alerts/{id}/ack"), json!({ "by": "me", "notes": "x" }), "/notes"),
        ("POST", &format!("/alerts/{id}/clear"), json!({ "By": "me" }), "/By"),
        ("POST", "/patients/p/readings/retract", json!({ "device": "x" }), "/device"),
    ] {
        let token = server.token("webhooks:manage alerts:ack rules:manage readings:correct");
        let url = server.url(&format!("/api/v1{path}"));
        let body = Some(body.to_string().into_bytes());
        let answer = send(method.parse().unwrap(), &url, &token, body).await;
        let said = (answer.status.as_u16(), &answer.json["code"], &answer.json["pointer"]);
        assert_eq!(
            said,
            (422, &json!("unknown_field"), &json!(pointer)),
            "{path}: {}",
            answer.text
        );
    }
}

#[tokio::test]
async fn no_patient_is_called_by_what_a_path_goes_up_by() {
    let (_database, server, hospital) = scene().await;
    for id in [".", ".."] {
        let mut reading = crate::hospital::heart_rate("p", 80.0, now());
        reading["patientId"] = id.into();
        let (status, problem) = hospital.post("/readings", &reading).await;
        assert_eq!((status, &problem["code"]), (422, &json!("invalid_id")), "{id}");
        let token = server.token_with(|claims| claims["patient"] = id.into());
        assert_eq!(get(&server.url("/api/v1/patients"), &token).await.status, 401);
    }
    let database = Database::new().await;
    for arguments in [
        ["replay", "--patient", "..", "--tenant", "t"],
        ["replay", "--patient", "p", "--tenant", ".."],
        ["backtest", "--rule", "none.toml", "--tenant", "zz' or true"],
        ["import", "--format=csv", "--tenant", "..", "none.csv"],
    ] {
        let ended = crate::support::server::cli(&database, &arguments).await;
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && said.contains("not . or .."), "{arguments:?}: {said}");
    }
    let token = ["token", "--tenant", "..", "--subject", "s", "--scope", "vitals:read"];
    let ended = crate::support::server::cli(&database, &token).await;
    assert!(!ended.status.success(), "{ended:?}");
}
