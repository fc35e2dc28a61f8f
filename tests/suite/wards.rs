//! A ward as it was: who lay there at a moment, how they were, and what was known of it.

use std::time::Duration;

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::server::Server;

const SOON: Duration = Duration::from_secs(60);

async fn scene() -> (Database, Server, Hospital) {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    (database, server, hospital)
}

async fn register(hospital: &Hospital, patient: &str, ward: &str) {
    let path = format!("/patients/{patient}/record");
    let (status, answer) = hospital.patch(&path, &json!({ "ward": ward })).await;
    assert_eq!(status, 200, "{answer}");
}

/// Patients with their wards and heart rates.
fn shown(list: &Value) -> Vec<(String, Value, Value)> {
    let of = |item: &Value| {
        let id = item["patientId"].as_str().unwrap().to_owned();
        (id, item["ward"].clone(), item["vitals"]["heart_rate"]["value"].clone())
    };
    list["items"].as_array().unwrap().iter().map(of).collect()
}

#[tokio::test]
async fn the_ward_is_answered_as_it_was_at_a_moment() {
    let (_database, server, hospital) = scene().await;
    for (patient, ward) in [("p1", "4B"), ("p2", "5A")] {
        register(&hospital, patient, ward).await;
    }
    for (patient, value) in [("p1", 81.0), ("p2", 82.0), ("p3", 130.0)] {
        hospital.measure(patient, value).await;
    }
    let alert = eventually("an alert", SOON, async || {
        hospital.found("/alerts?state=active").await["items"].get(0).cloned()
    });
    let alert = alert.await;
    let then = now();
    register(&hospital, "p1", "5A").await;
    hospital.measure("p2", 92.0).await;
    hospital.measure("p3", 80.0).await;
    hospital.measure("p4", 94.0).await;
    // Measured before the moment, and not known then.
    hospital.store(&[heart_rate("p1", 71.0, then - TimeDelta::milliseconds(1))]).await;

    let (at, fours) = (rfc3339(then), json!("4B"));
    let known = hospital.found(&format!("/patients?asOf={at}&knownAt={at}")).await;
    let expected = [
        ("p1".to_owned(), fours.clone(), json!(81)),
        ("p2".to_owned(), json!("5A"), json!(82)),
        ("p3".to_owned(), Value::Null, json!(130)),
    ];
    assert_eq!(shown(&known), expected);
    assert_eq!(known["items"][2]["alerts"][0]["id"], alert["id"]);
    assert_eq!(
        (&known["items"][0]["asOf"], &known["items"][0]["knownAt"]),
        (&json!(at), &json!(at))
    );
    // What is known of it now.
    let now_known = hospital.found(&format!("/patients?asOf={at}")).await;
    assert_eq!(shown(&now_known)[0], ("p1".to_owned(), fours, json!(71)));
    assert_eq!(now_known["items"].as_array().unwrap().len(), 3);
    // Who lay in a ward then, and not who lies there now.
    let ward = hospital.found(&format!("/patients?ward=4B&asOf={at}")).await;
    assert_eq!(shown(&ward).len(), 1, "{ward}");
    assert_eq!(hospital.found("/patients?ward=4B").await["items"], json!([]));
    // Nobody was known of, on either axis.
    for question in ["asOf=2020-01-01T00:00:00Z", "knownAt=2020-01-01T00:00:00Z"] {
        let nobody = hospital.found(&format!("/patients?{question}")).await;
        assert_eq!(nobody["items"], json!([]), "{question}");
    }
    // A patient's own token sees them alone, and another tenant nobody.
    let own = hospital.with_token(server.token_with(|claims| {
        claims["scope"] = "vitals:read".into();
        claims["patient"] = "p2".into();
    }));
    assert_eq!(shown(&own.found(&format!("/patients?asOf={at}")).await).len(), 1);
    let other = Hospital::new(&server, "other");
    assert_eq!(other.found(&format!("/patients?asOf={at}")).await["items"], json!([]));
}

#[tokio::test]
async fn pages_of_a_moment_are_all_of_one_moment() {
    let (_database, _server, hospital) = scene().await;
    for n in 1..=5 {
        hospital.measure(&format!("p{n}"), 80.0 + f64::from(n)).await;
    }
    let at = rfc3339(now());
    let question = format!("/patients?limit=2&asOf={at}");
    let mut page = hospital.found(&question).await;
    let settled = page["items"][0]["knownAt"].clone();
    let (mut seen, mut pages) = (shown(&page), 1);
    while let Some(cursor) = page["next"].as_str().map(str::to_owned) {
        // Late, so that every page that knew of it would show another value.
        let late: Vec<Value> = (1..=6)
            .map(|n| heart_rate(&format!("p{n}"), 99.0, now() - TimeDelta::seconds(30)))
            .chain((1..=5).map(|n| {
                let at = at.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
                heart_rate(&format!("p{n}"), 60.0, at - TimeDelta::microseconds(pages))
            }))
            .collect();
        hospital.store(&late).await;
        // By the link, or by the cursor at the end of one's own question.
        let link = page["_links"]["next"].as_str().unwrap().strip_prefix("/api/v1").unwrap();
        let by_link = hospital.found(link).await;
        page = hospital.found(&format!("{question}&cursor={cursor}")).await;
        assert_eq!(shown(&by_link), shown(&page));
        assert!(page["items"].as_array().unwrap().iter().all(|i| i["knownAt"] == settled));
        seen.extend(shown(&page));
        pages += 1;
    }
    assert_eq!(pages, 3);
    let values: Vec<_> = seen.iter().map(|(id, _, value)| format!("{id} {value}")).collect();
    assert_eq!(values, ["p1 81", "p2 82", "p3 83", "p4 84", "p5 85"]);
    // A cursor of the present is none of a moment.
    let present = hospital.found("/patients?limit=2").await;
    let cursor = present["next"].as_str().unwrap();
    let (status, problem) = hospital.get(&format!("{question}&cursor={cursor}")).await;
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_cursor")));
}

/// Status, tag and body of an answer to who has this tag.
async fn ask(hospital: &Hospital, path: &str, tag: &str) -> (u16, String, Value) {
    let request = hospital.request(Method::GET, path).header("if-none-match", tag);
    let answer = request.send().await.unwrap();
    let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
    let status = answer.status().as_u16();
    (status, tag, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
}

#[tokio::test]
async fn what_time_alone_changes_is_no_304() {
    let (_database, _server, hospital) = scene().await;
    hospital.measure("p1", 80.0).await;
    for path in ["/patients/p1", "/patients"] {
        let state = |body: &Value| body.get("items").map_or(body.clone(), |items| items[0].clone());
        let age =
            |body: &Value| state(body)["vitals"]["heart_rate"]["ageSeconds"].as_i64().unwrap();
        let (_, tag, first) = ask(&hospital, path, "none").await;
        eventually("an older value", SOON, async || {
            let (status, newer, body) = ask(&hospital, path, &tag).await;
            if status == 304 {
                return None;
            }
            assert!(newer != tag && age(&body) > age(&first), "{path}: {body}");
            Some(())
        })
        .await;
    }
    // What was at a moment does not change.
    let at = rfc3339(now());
    for path in [
        format!("/patients/p1?asOf={at}&knownAt={at}"),
        format!("/patients?asOf={at}&knownAt={at}"),
    ] {
        let (status, tag, _) = ask(&hospital, &path, "none").await;
        assert_eq!(status, 200);
        assert_eq!(ask(&hospital, &path, &tag).await.0, 304, "{path}");
    }
}
