//! Acknowledging from outside: by the link of a delivery, without a token.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;
use vitals::delivery::ack::AckLinks;

use crate::hospital::{Hospital, now};
use crate::support::http::{Answer, send};
use crate::support::postgres::Database;
use crate::support::receiver::Receiver;
use crate::support::server::{Server, client};
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
    let said = &answer.json["acknowledged"];
    assert_eq!(
        (&said["by"], &said["subject"], &said["via"], &said["note"]),
        (&json!("Nurse Joy"), &Value::Null, &json!("link"), &json!("at the bed"))
    );
    let keys: Vec<&String> = answer.json.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["id", "state", "acknowledged"], "no vitals for whoever has a link");
    let alert = hospital.found(&format!("/alerts/{}", first["alertId"].as_str().unwrap())).await;
    assert_eq!(alert["acknowledged"]["by"], "Nurse Joy");
    let other = hospital.found(&format!("/alerts/{}", second["alertId"].as_str().unwrap())).await;
    assert_eq!(other["acknowledged"], Value::Null);
    // What curl sends unless it is told otherwise calls itself a form.
    let curled = client().post(link(first)).body(by.to_string());
    let kind = "application/x-www-form-urlencoded";
    let curled = curled.header("content-type", kind).send().await.unwrap();
    assert_eq!(curled.headers()["content-type"], "application/json");
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
    let put = send(Method::PUT, &link(first), "", None).await;
    assert_eq!(put.status, 405, "{put:?}");
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

/// Asks as a phone does; a body is a form's.
async fn browse(url: &str, form: Option<&str>) -> (u16, reqwest::header::HeaderMap, String) {
    let request = match form {
        Some(form) => client()
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.to_owned()),
        None => client().get(url),
    };
    let answer = request.header("accept", "text/html,*/*;q=0.8").send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    assert_eq!(headers["content-type"], "text/html; charset=utf-8");
    (status, headers, answer.text().await.unwrap())
}

#[tokio::test]
async fn a_nurse_answers_by_one_button_and_sees_who_has() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (hospital, receiver) = (Hospital::new(&server, "ward"), Receiver::start().await);
    hospital.endpoint(&receiver, &["*"]).await;
    hospital.patch("/patients/101/record", &json!({ "ward": "4<B>", "bed": "12" })).await;
    hospital.measure("101", 130.0).await;
    let page = received(&receiver, 1).await.remove(0).body;
    let url = server.url(page["_links"]["ack"].as_str().unwrap());
    let alert = format!("/alerts/{}", page["alertId"].as_str().unwrap());

    // Whatever opens links acknowledges nothing.
    for _ in 0..2 {
        let (status, headers, html) = browse(&url, None).await;
        assert_eq!(status, 200, "{html}");
        for fact in [
            "High heart rate",
            "130",
            "/min",
            "101",
            "4&lt;B&gt;",
            ">12<",
            "<form method=\"post\">",
        ] {
            assert!(html.contains(fact), "{fact}: {html}");
        }
        assert_eq!(html.matches("<button").count(), 1, "{html}");
        assert!(!html.contains("<script") && !html.contains("src="), "{html}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["referrer-policy"], "no-referrer");
    }
    assert_eq!(send(Method::HEAD, &url, "", None).await.status, 200);
    assert_eq!(hospital.found(&alert).await["acknowledged"], Value::Null);

    // The name may be left out; a form that says something else is refused as a page.
    let (status, _, html) = browse(&url, Some("name=x")).await;
    assert_eq!((status, html.contains("Nothing was acknowledged")), (422, true), "{html}");
    let (status, _, html) = browse(&url, Some("by=%00")).await;
    assert_eq!((status, html.contains("Nothing was acknowledged")), (422, true), "{html}");
    let (status, _, html) = browse(&url, Some("by=+")).await;
    assert_eq!(status, 200, "{html}");
    assert!(html.contains("Acknowledged by") && !html.contains("<button"), "{html}");
    let said = hospital.found(&alert).await["acknowledged"].clone();
    let expected = (&Value::Null, &Value::Null, &json!("link"));
    assert_eq!((&said["by"], &said["subject"], &said["via"]), expected, "{said}");
    // The first one counts.
    let (_, _, html) = browse(&url, Some("by=Joy")).await;
    assert!(!html.contains("Joy"), "{html}");

    hospital.measure("102", 140.0).await;
    let second = received(&receiver, 2).await.remove(1).body;
    let url = server.url(second["_links"]["ack"].as_str().unwrap());
    let (_, _, html) = browse(&url, Some("by=Joy+%26+Co")).await;
    assert!(html.contains("<strong>Joy &amp; Co</strong>"), "{html}");

    hospital.measure("103", 140.0).await;
    let third = received(&receiver, 3).await.remove(2).body;
    hospital.measure("103", 80.0).await;
    received(&receiver, 4).await;
    let url = server.url(third["_links"]["ack"].as_str().unwrap());
    hospital.found("/patients/103").await;
    let (status, _, html) = browse(&url, None).await;
    assert_eq!((status, html.contains("It is over")), (200, true), "{html}");
    assert!(!html.contains("<button"), "{html}");

    // What is wrong with a link is told as a page, and to programs as before.
    for (url, status, words) in [
        (url.replace("link=1", "link=2"), 403, "cut or changed"),
        (url.split('?').next().unwrap().to_owned(), 401, "as it was sent"),
        (format!("{url}&lang=en"), 400, "does not take"),
    ] {
        let (found, _, html) = browse(&url, None).await;
        assert_eq!((found, html.contains(words)), (status, true), "{url}: {html}");
        let plain = send(Method::GET, &url, "", None).await;
        assert_eq!(plain.headers["content-type"], "application/problem+json", "{url}");
    }
}

#[tokio::test]
async fn a_thin_messages_link_shows_nothing_of_the_patient() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (hospital, receiver) = (Hospital::new(&server, "ward"), Receiver::start().await);
    let thin = json!({ "payload": "thin" });
    hospital.endpoint_with(&receiver, thin).await;
    hospital.measure("patient-101", 137.0).await;
    let page = received(&receiver, 1).await.remove(0).body;
    let url = server.url(page["_links"]["ack"].as_str().unwrap());
    let (status, _, html) = browse(&url, None).await;
    assert_eq!((status, html.contains("High heart rate")), (200, true), "{html}");
    for secret in ["patient-101", "137", "watch-7"] {
        assert!(!html.contains(secret), "{secret}: {html}");
    }
    let (status, _, html) = browse(url.strip_suffix("~thin").unwrap(), None).await;
    assert_eq!(status, 403, "{html}");
    assert_eq!(browse(&url, Some("by=Joy")).await.0, 200);
}

#[tokio::test]
async fn whose_token_it_was_stands_beside_the_name_that_was_given() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    hospital.measure("101", 130.0).await;
    let list = hospital.found("/alerts?state=active").await;
    let alert = format!("/alerts/{}", list["items"][0]["id"].as_str().unwrap());
    let words = json!({ "by": "Dr Else", "note": "seen" });
    let (status, answer) = hospital.post(&format!("{alert}/ack"), &words).await;
    assert_eq!(status, 200, "{answer}");
    for acknowledged in [&answer["acknowledged"], &hospital.found(&alert).await["acknowledged"]] {
        let said = ["by", "subject", "via", "note"].map(|key| acknowledged[key].clone());
        assert_eq!(json!(said), json!(["Dr Else", "tester", "token", "seen"]));
        assert!(acknowledged["at"].is_string());
    }
    assert_eq!(hospital.post(&format!("{alert}/clear"), &words).await.0, 200);
    let found = hospital.found(&alert).await;
    let said = |kind: &str| {
        let mut history = found["history"].as_array().unwrap().iter();
        let said = history.find(|said| said["type"] == kind).unwrap();
        ["by", "subject", "via"].map(|key| said[key].clone())
    };
    for kind in ["alert_acknowledged", "alert_clear_requested"] {
        assert_eq!(json!(said(kind)), json!(["Dr Else", "tester", "token"]), "{found}");
    }
    // In the log it is the token that speaks.
    let sources: Vec<String> = sqlx::query_scalar(
        "select source_id from event where type in ('alert_acknowledged', 'alert_clear_requested')",
    )
    .fetch_all(&database.pool())
    .await
    .unwrap();
    assert_eq!(sources, ["tester", "tester"]);
}
