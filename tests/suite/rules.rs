//! A tenant's rules, from outside: written, tried, at work, silenced, cleared.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::http;
use crate::support::postgres::Database;
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::webhooks::received;

const SOON: Duration = Duration::from_secs(20);

async fn scene() -> (Database, Server, Hospital) {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    (database, server, hospital)
}

async fn put(hospital: &Hospital, path: &str, body: &Value) -> (u16, Value) {
    let answer = hospital.request(reqwest::Method::PUT, path).json(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn rule(mode: &str, value: i64) -> Value {
    json!({
        "id": "mine", "event": "MINE", "priority": "medium", "mode": mode,
        "when": { "vital": "heart_rate", "op": ">", "value": value },
    })
}

async fn alerts(hospital: &Hospital, patient: &str) -> Vec<Value> {
    let body = hospital.found(&format!("/alerts?patientId={patient}")).await;
    body["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_fresh_tenant_has_one_active_rule_and_the_others_as_drafts() {
    let (_database, server, hospital) = scene().await;
    let rules = hospital.found("/rules").await;
    let items = rules["items"].as_array().unwrap();
    let active: Vec<&Value> = items.iter().filter(|rule| rule["mode"] == "active").collect();
    assert_eq!(active.len(), 1);
    assert_eq!(active[0]["id"], "high-heart-rate");
    let events: Vec<&str> =
        items.iter().map(|rule| rule["rule"]["event"].as_str().unwrap()).collect();
    for event in [
        "LOW_HEART_RATE",
        "LOW_SPO2",
        "HIGH_RESPIRATORY_RATE",
        "LOW_RESPIRATORY_RATE",
        "HIGH_BODY_TEMPERATURE",
        "LOW_BODY_TEMPERATURE",
        "HIGH_SYSTOLIC_BP",
        "LOW_SYSTOLIC_BP",
        "NEWS2_HIGH",
        "DEVICE_SILENT",
        "SIGNAL_SUSPECT",
    ] {
        assert!(events.contains(&event), "{event}");
    }
    let token = server.token("vitals:read alerts:read alerts:ack");
    let refused = http::get(&server.url("/api/v1/rules"), &token).await;
    assert_eq!(refused.status.as_u16(), 403);
}

#[tokio::test]
async fn a_rule_is_written_judges_what_comes_after_and_every_version_is_kept() {
    let (_database, _server, hospital) = scene().await;
    hospital.measure("101", 95.0).await;
    let (status, body) = put(&hospital, "/rules/mine?reason=trial", &rule("active", 90)).await;
    assert_eq!((status, &body["version"], &body["mode"]), (200, &json!(1), &json!("active")));
    hospital.measure("101", 96.0).await;
    let raised = alerts(&hospital, "101").await;
    assert_eq!(raised.len(), 1, "{raised:?}");
    assert_eq!((&raised[0]["rule"], &raised[0]["value"]), (&json!("mine"), &json!(96)));

    // An edit does not drop the alert that stands; the new number counts from now on.
    let (_, body) = put(&hospital, "/rules/mine?reason=too%20many", &rule("active", 110)).await;
    assert_eq!(body["version"], 2);
    assert_eq!(alerts(&hospital, "101").await[0]["state"], "active");
    hospital.measure("101", 97.0).await;
    assert_eq!(alerts(&hospital, "101").await[0]["state"], "cleared");
    // The same again is no new version.
    assert_eq!(put(&hospital, "/rules/mine", &rule("active", 110)).await.1["version"], 2);

    let (status, _) = hospital.delete("/rules/mine?reason=enough").await;
    assert_eq!(status, 204);
    hospital.measure("101", 115.0).await;
    assert_eq!(alerts(&hospital, "101").await.len(), 1);
    let versions = hospital.found("/rules/mine/versions").await;
    let said: Vec<_> = versions["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| {
            (
                v["version"].as_i64().unwrap(),
                v["mode"].as_str().unwrap().to_owned(),
                v["reason"].clone(),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            (1, "active".to_owned(), json!("trial")),
            (2, "active".to_owned(), json!("too many")),
            (3, "retired".to_owned(), json!("enough")),
        ]
    );
    assert_eq!(hospital.get("/rules/nobodys/versions").await.0, 404);
}

#[tokio::test]
async fn what_is_no_rule_is_refused_with_its_place_and_the_mend() {
    let (_database, _server, hospital) = scene().await;
    let (status, body) = put(&hospital, "/rules/other", &rule("active", 90)).await;
    assert_eq!(
        (status, &body["code"], &body["pointer"]),
        (422, &json!("invalid_rule"), &json!("/id"))
    );
    let mut wrong = rule("active", 90);
    wrong["when"]["vital"] = "heart_beat".into();
    let (status, body) = put(&hospital, "/rules/mine", &wrong).await;
    assert_eq!((status, &body["pointer"]), (422, &json!("/when/vital")));
    assert!(body["detail"].as_str().unwrap().contains("use one of heart_rate"), "{body}");
    let toml = "id = \"mine\"\nevent = \"MINE\"\npriority = \"low\"\nwhen = { vital = \"spo2\", op = \"<\", value = 90 }\nclear = { value = 80 }\n";
    let answer = hospital
        .request(reqwest::Method::PUT, "/rules/mine")
        .header("content-type", "application/toml")
        .body(toml)
        .send()
        .await
        .unwrap();
    let (status, body) = (answer.status().as_u16(), answer.json::<Value>().await.unwrap());
    assert_eq!((status, &body["pointer"], &body["line"]), (422, &json!("/clear/value"), &json!(5)));
    let mut circle = rule("draft", 90);
    circle["inhibited_by"] = json!(["second"]);
    assert_eq!(put(&hospital, "/rules/mine", &circle).await.0, 200);
    circle["id"] = "second".into();
    circle["inhibited_by"] = json!(["mine"]);
    let (status, body) = put(&hospital, "/rules/second", &circle).await;
    assert_eq!((status, &body["pointer"]), (422, &json!("/inhibited_by")), "{body}");
}

#[tokio::test]
async fn a_rule_on_trial_says_what_it_would_have_raised_and_pages_nobody() {
    let (database, _server, hospital) = scene().await;
    let receiver = Receiver::start().await;
    hospital.endpoint(&receiver, &["*"]).await;
    assert_eq!(put(&hospital, "/rules/mine", &rule("shadow", 90)).await.0, 200);
    hospital.measure("101", 100.0).await;
    hospital.measure("101", 130.0).await;
    // The default rule's page came, and the trial's, which was before it, did not.
    let page = received(&receiver, 1).await;
    assert_eq!(page[0].body["rule"], "high-heart-rate");
    let shadowed: Vec<String> =
        sqlx::query_scalar("select data ->> 'event' from event where type = 'alert_shadowed'")
            .fetch_all(&database.pool())
            .await
            .unwrap();
    assert_eq!(shadowed, ["MINE"]);
    assert_eq!(alerts(&hospital, "101").await.len(), 1);
}

#[tokio::test]
async fn what_one_version_began_another_does_not_finish_and_a_trials_alert_ends_with_it() {
    let (_database, _server, hospital) = scene().await;
    let mut slow = rule("active", 90);
    slow["on_delay"] = json!("30s");
    assert_eq!(put(&hospital, "/rules/mine", &slow).await.0, 200);
    let start = now() - TimeDelta::seconds(40);
    let measured = async |second| {
        let at = start + TimeDelta::seconds(second);
        hospital.store(&[heart_rate("101", 100.0, at)]).await;
        alerts(&hospital, "101").await.len()
    };
    assert_eq!((measured(0).await, measured(10).await), (0, 0));
    slow["when"]["value"] = json!(95);
    assert_eq!(put(&hospital, "/rules/mine", &slow).await.1["version"], 2);
    assert_eq!(measured(35).await, 0, "it has held for 35 s, and for this version not at all");
    assert_eq!((measured(60).await, measured(65).await), (0, 1));

    // On trial somebody would have been paged. At work somebody is.
    let mut trial = rule("shadow", 90);
    trial["id"] = json!("other");
    assert_eq!(put(&hospital, "/rules/other", &trial).await.0, 200);
    hospital.measure("102", 100.0).await;
    assert_eq!(alerts(&hospital, "102").await, Vec::<Value>::new());
    trial["mode"] = json!("active");
    assert_eq!(put(&hospital, "/rules/other", &trial).await.0, 200);
    hospital.measure("102", 101.0).await;
    let raised = alerts(&hospital, "102").await;
    assert_eq!((raised.len(), &raised[0]["value"]), (1, &json!(101)));
}

#[tokio::test]
async fn too_many_pages_refuse_an_activation_unless_it_is_forced_with_a_reason() {
    let (_database, _server, hospital) = scene().await;
    let begin = now() - TimeDelta::minutes(50);
    let readings: Vec<Value> = (0..40)
        .map(|n| {
            heart_rate("101", if n % 2 == 0 { 100.0 } else { 80.0 }, begin + TimeDelta::minutes(n))
        })
        .collect();
    hospital.store(&readings).await;
    let mut body = rule("active", 90);
    body["max_pages_per_patient_day"] = json!(2);
    let (status, refused) = put(&hospital, "/rules/mine", &body).await;
    assert_eq!((status, &refused["code"]), (422, &json!("too_many_pages")), "{refused}");
    assert_eq!(refused["backtest"]["alerts"], 20);
    let (status, _) = put(&hospital, "/rules/mine?force=true", &body).await;
    assert_eq!(status, 400, "without a reason");
    let (status, _) = put(&hospital, "/rules/mine?force=true&reason=study", &body).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_backtest_is_a_job_with_a_result_and_only_its_tenants() {
    let (_database, server, hospital) = scene().await;
    let begin = now() - TimeDelta::minutes(50);
    let value = |n| if n % 10 < 5 { 130.0 } else { 80.0 };
    let readings: Vec<Value> =
        (0..40).map(|n| heart_rate("101", value(n), begin + TimeDelta::minutes(n))).collect();
    hospital.store(&readings).await;
    let body = json!({ "rule": rule("draft", 120), "against": "active" });
    let (status, started) = hospital.post("/rules/backtest", &body).await;
    assert_eq!(status, 202, "{started}");
    let job = format!("/jobs/{}", started["id"].as_str().unwrap());
    let ended = |job: String| {
        let hospital = hospital.clone();
        async move {
            eventually("the job's end", SOON, || async {
                let body = hospital.found(&job).await;
                (body["state"] != "running" && body["state"] != "waiting").then_some(body)
            })
            .await
        }
    };
    let done = ended(job.clone()).await;
    assert_eq!(done["state"], "done", "{done}");
    let report = &done["result"]["report"];
    assert_eq!(
        (&report["alerts"], &report["patients"], &report["readings"]),
        (&json!(4), &json!(1), &json!(40))
    );
    assert_eq!(Hospital::new(&server, "other").get(&job).await.0, 404);
    let body = json!({ "rule": rule("draft", 120), "sweep": ["when.value=110..140/10", "on_delay=0s,2m"] });
    let (_, started) = hospital.post("/rules/backtest", &body).await;
    let done = ended(format!("/jobs/{}", started["id"].as_str().unwrap())).await;
    assert_eq!(done["result"]["settings"].as_array().unwrap().len(), 8, "{done}");
    assert!(done["result"]["picture"].as_str().unwrap().starts_with("<svg"));
    let (status, refused) = hospital.post("/rules/backtest", &json!({ "rule": {} })).await;
    assert_eq!((status, &refused["pointer"]), (422, &json!("/rule")));
}

#[tokio::test]
async fn a_person_clears_an_alert_and_it_explains_itself() {
    let (_database, _server, hospital) = scene().await;
    let mut latched = rule("active", 90);
    latched["latch"] = json!(true);
    put(&hospital, "/rules/mine", &latched).await;
    hospital.measure("101", 100.0).await;
    hospital.measure("101", 80.0).await;
    let alert = alerts(&hospital, "101").await.remove(0);
    assert_eq!(alert["state"], "active", "a latched alert stands until a person clears it");
    let path = format!("/alerts/{}", alert["id"].as_str().unwrap());
    let (status, cleared) =
        hospital.post(&format!("{path}/clear"), &json!({ "by": "nurse 7", "note": "seen" })).await;
    assert_eq!((status, &cleared["state"]), (200, &json!("cleared")), "{cleared}");
    let whole = hospital.found(&path).await;
    assert_eq!(whole["because"]["limit"], 90);
    assert_eq!(whole["because"]["op"], ">");
    let states: Vec<&str> = whole["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|said| said["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["raised", "clear_requested", "cleared"]);
    assert_eq!(whole["history"][2]["by"], "nurse 7");
}

#[tokio::test]
async fn a_silence_holds_pages_back_says_which_and_never_those_of_high_priority() {
    let (_database, _server, hospital) = scene().await;
    let receiver = Receiver::start().await;
    hospital.endpoint(&receiver, &["*"]).await;
    put(&hospital, "/rules/mine", &rule("active", 90)).await;
    let until = rfc3339(now() + TimeDelta::hours(1));
    let wanted = json!({ "patientId": "101", "reason": "physiotherapy", "until": until });
    hospital.measure("101", 80.0).await;
    let (status, silence) = hospital.post("/silences", &wanted).await;
    assert_eq!(status, 201, "{silence}");
    hospital.measure("101", 100.0).await;
    hospital.measure("101", 130.0).await;
    let pages = received(&receiver, 1).await;
    assert_eq!(pages[0].body["rule"], "high-heart-rate", "high priority is never held back");
    let path = format!("/silences/{}", silence["id"].as_str().unwrap());
    let receipt = hospital.found(&path).await;
    let held = receipt["heldBack"].as_array().unwrap();
    assert_eq!(
        (held.len(), &held[0]["rule"], &held[0]["patientId"]),
        (1, &json!("mine"), &json!("101"))
    );
    assert_eq!(alerts(&hospital, "101").await.len(), 2, "both are shown");
    hospital.measure("102", 100.0).await;
    let other = &received(&receiver, 2).await[1].body;
    assert_eq!((&other["rule"], &other["patientId"]), (&json!("mine"), &json!("102")));
    assert_eq!(hospital.delete(&path).await.0, 200);
    hospital.measure("101", 80.0).await;
    hospital.measure("101", 100.0).await;
    let states: Vec<Value> =
        received(&receiver, 6).await.iter().map(|d| d.body["rule"].clone()).collect();
    // What it had held back is paged at its end; then it is over, and raised again.
    assert_eq!(states.iter().filter(|rule| **rule == "mine").count(), 4, "{states:?}");
    for (pointer, wrong) in [
        ("/reason", json!({ "ward": "4B", "reason": " ", "until": until })),
        ("/until", json!({ "ward": "4B", "reason": "r", "until": "2099-01-01T00:00:00Z" })),
        ("", json!({ "reason": "r", "until": until })),
    ] {
        let (status, refused) = hospital.post("/silences", &wrong).await;
        assert_eq!((status, &refused["pointer"]), (422, &json!(pointer)), "{refused}");
    }
}

#[tokio::test]
async fn nobody_answers_and_it_is_escalated_by_time_alone() {
    let (_database, _server, hospital) = scene().await;
    let receiver = Receiver::start().await;
    hospital.endpoint(&receiver, &["*"]).await;
    let mut body = rule("active", 90);
    body["escalate"] = json!([{ "after": "2s", "unless": "acked", "event": "MINE_ESCALATED" }]);
    put(&hospital, "/rules/mine", &body).await;
    hospital.measure("101", 100.0).await;
    let pages = received(&receiver, 2).await;
    assert_eq!(
        (&pages[0].body["state"], &pages[1].body["state"]),
        (&json!("raised"), &json!("escalated"))
    );
    assert_eq!(
        (&pages[1].body["type"], &pages[1].body["alertId"]),
        (&json!("MINE_ESCALATED"), &pages[0].body["alertId"])
    );
    // Whoever answers in time is not gone over.
    hospital.measure("102", 100.0).await;
    let id = alerts(&hospital, "102").await[0]["id"].as_str().unwrap().to_owned();
    let (status, _) =
        hospital.post(&format!("/alerts/{id}/ack"), &json!({ "by": "nurse 7" })).await;
    assert_eq!(status, 200);
    hospital.measure("103", 100.0).await;
    let pages = received(&receiver, 5).await;
    let escalated: Vec<&Value> = pages
        .iter()
        .filter(|p| p.body["state"] == "escalated")
        .map(|p| &p.body["patientId"])
        .collect();
    assert_eq!(escalated, ["101", "103"]);
}

#[tokio::test]
async fn a_patients_own_limit_counts_within_the_rules_bounds() {
    let (_database, _server, hospital) = scene().await;
    let mut body = rule("active", 90);
    body["bounds"] = json!({ "min": 80, "max": 110 });
    put(&hospital, "/rules/mine", &body).await;
    let record = |limit: Value| json!({ "ward": "4B", "limits": { "heart_rate_high": limit } });
    let own =
        json!({ "value": 105, "by": "dr-who", "until": rfc3339(now() + TimeDelta::hours(1)) });
    assert_eq!(put(&hospital, "/patients/101", &record(own)).await.0, 200);
    let past = json!({ "value": 105, "by": "dr-who", "until": "2020-01-01T00:00:00Z" });
    assert_eq!(put(&hospital, "/patients/102", &record(past)).await.0, 200);
    assert_eq!(put(&hospital, "/patients/103", &record(json!(150))).await.0, 200);
    for patient in ["101", "102", "103"] {
        hospital.measure(patient, 100.0).await;
    }
    assert_eq!(alerts(&hospital, "101").await.len(), 0);
    assert_eq!(alerts(&hospital, "102").await.len(), 1, "it is over");
    hospital.measure("103", 109.0).await;
    assert_eq!(alerts(&hospital, "103").await.len(), 0);
    hospital.measure("103", 111.0).await;
    assert_eq!(alerts(&hospital, "103").await.len(), 1, "150 lies outside the bounds: 110 counts");
    let (status, refused) = put(&hospital, "/patients/101", &record(json!("high"))).await;
    assert_eq!(
        (status, &refused["code"], &refused["pointer"]),
        (422, &json!("invalid_limit_of_patient"), &json!("/limits/heart_rate_high"))
    );
}
