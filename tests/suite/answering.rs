//! Acknowledging from outside: by the link of a delivery, without a token.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;
use vitals::webhook::ack::AckLinks;

use crate::hospital::{Hospital, now};
use crate::support::http::{Answer, send};
use crate::support::postgres::Database;
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::webhooks::received;

async fn post(url: &str, body: &Value) -> Answer {
    send(Method::POST, url, "", Some(body.to_string().into_bytes())).await
}

fn check(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status.as_u16(), &answer.json["code"]),
        (status, &json!(code)),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_link_acknowledges_its_alert_without_a_token_and_does_nothing_else() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (hospital, receiver) = (Hospital::new(&server, "ward"), Receiver::start().await);
    hospital.endpoint(&receiver, &["*"]).await;
    hospital.measure("101", 130.0).await;
    hospital.measure("102", 140.0).await;
    let [first, second] = received(&receiver, 2).await.try_into().unwrap();
    let link = |delivery: &Value| server.url(delivery["_links"]["ack"].as_str().unwrap());
    let (first, second) = (&first.body, &second.body);
    let by = json!({ "by": "Nurse Joy", "note": "at the bed" });

    // Who it is has to be said, because no token says so.
    check(&post(&link(first), &json!({})).await, 422, "invalid_text");
    let answer = post(&link(first), &by).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json["acknowledged"]["by"], "Nurse Joy");
    let keys: Vec<&String> = answer.json.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["id", "state", "acknowledged"], "no vitals for whoever has a link");
    let alert = hospital.found(&format!("/alerts/{}", first["alertId"].as_str().unwrap())).await;
    assert_eq!(alert["acknowledged"]["by"], "Nurse Joy");
    let other = hospital.found(&format!("/alerts/{}", second["alertId"].as_str().unwrap())).await;
    assert_eq!(other["acknowledged"], Value::Null);
    // The first one counts, for links as for tokens.
    let again = post(&link(first), &json!({ "by": "Somebody" })).await;
    assert_eq!(
        (again.status.as_u16(), &again.json["acknowledged"]["by"]),
        (200, &json!("Nurse Joy"))
    );

    // For another alert, for another route, with another method: nothing.
    let query = link(first).split_once('?').unwrap().1.to_owned();
    let path = |path: &str| server.url(&format!("/api/v1{path}?{query}"));
    let id = |delivery: &Value| delivery["alertId"].as_str().unwrap().to_owned();
    let other = path(&format!("/alerts/{}/ack", id(second)));
    check(&post(&other, &by).await, 403, "link_invalid");
    check(&post(&path("/alerts/no-id/ack"), &by).await, 404, "not_found");
    let bare = server.url(&format!("/api/v1/alerts/{}/ack", id(first)));
    check(&post(&bare, &by).await, 401, "unauthorised");
    for (method, elsewhere) in [
        (Method::GET, path(&format!("/alerts/{}", id(first)))),
        (Method::GET, path("/alerts")),
        (Method::GET, path("/patients/101")),
        (Method::POST, path("/readings")),
        (Method::GET, path("/stream")),
        (Method::DELETE, path("/webhooks")),
    ] {
        let answer = send(method, &elsewhere, "", None).await;
        assert_eq!(answer.status, 401, "{elsewhere}: {answer:?}");
    }
    let get = send(Method::GET, &link(first), "", None).await;
    assert!([401, 405].contains(&get.status.as_u16()), "{get:?}");
    // A token counts before a link: one that is none is refused.
    let answer = send(Method::POST, &link(second), "nonsense", Some(by.to_string().into())).await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn a_link_that_is_over_changed_or_of_elsewhere_is_told_apart() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (hospital, receiver) = (Hospital::new(&server, "ward"), Receiver::start().await);
    hospital.endpoint(&receiver, &["*"]).await;
    hospital.measure("101", 130.0).await;
    let alert = received(&receiver, 1).await.remove(0).body;
    let id = Uuid::parse_str(alert["alertId"].as_str().unwrap()).unwrap();
    let key: String =
        sqlx::query_scalar("select secret from ack_key").fetch_one(&database.pool()).await.unwrap();
    let links = AckLinks::new(&key);
    let url = |query: &str| server.url(&format!("/api/v1/alerts/{id}/ack?{query}"));
    let by = json!({ "by": "Nurse Joy" });

    let old = url(&links.query("ward", id, now() - TimeDelta::days(2)));
    let answer = post(&old, &by).await;
    check(&answer, 403, "link_expired");
    assert!(answer.json["detail"].as_str().unwrap().contains("good until"), "{answer:?}");
    let later = old.replacen("link=1", "link=2", 1);
    assert_ne!(later, old);
    check(&post(&later, &by).await, 403, "link_invalid");
    check(&post(&url("link="), &by).await, 403, "link_invalid");
    let foreign = AckLinks::new("another installation's").query("ward", id, now());
    check(&post(&url(&foreign), &by).await, 403, "link_invalid");
    // Genuine, and yet another tenant's: the alert does not exist for it.
    let theirs = links.query("other", id, now());
    check(&post(&url(&theirs), &by).await, 404, "not_found");
    let good = links.query("ward", id, now());
    assert_eq!(post(&url(&good), &by).await.status, 200);
    // The same link whenever it is made: the body is rendered once, but could be again.
    let sent = alert["_links"]["ack"].as_str().unwrap();
    let recorded = alert["timestamp"].as_str().unwrap().parse().unwrap();
    assert!(sent.ends_with(&links.query("ward", id, recorded)), "{sent}");
}
