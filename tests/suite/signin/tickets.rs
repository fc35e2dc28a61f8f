//! Tickets: what opens a stream by its address alone.

use serde_json::{Value, json};
use vitals::delivery::ack::AckLinks;

use super::SOON;
use crate::hospital::{Hospital, now};
use crate::support::http;
use crate::support::postgres::Database;
use crate::support::server::{Server, TENANT};

async fn ticket(server: &Server, token: &str) -> String {
    let answer =
        http::send(reqwest::Method::POST, &server.url("/api/v1/stream/tickets"), token, None).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json["ticket"].as_str().unwrap().to_owned()
}

async fn status(server: &Server, path: &str) -> u16 {
    server.client().get(server.url(path)).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_ticket_opens_streams_on_every_instance_and_nothing_else() {
    let database = Database::new().await;
    let (one, other) = tokio::join!(Server::start(&database), Server::start(&database));
    let hospital = Hospital::new(&one, TENANT);
    hospital.measure("101", 80.0).await;
    let token = one.token("vitals:read alerts:read alerts:ack rules:manage");
    let ticket = ticket(&one, &token).await;
    // Letters, digits and what stands in an address as it is; and nothing of who it is.
    assert!(ticket.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{ticket}");
    let mut stream = other
        .client()
        .get(other.url(&format!("/api/v1/stream?types=reading&ticket={ticket}")))
        .send()
        .await
        .unwrap();
    assert_eq!(stream.status(), 200);
    hospital.measure("101", 81.0).await;
    let mut heard = String::new();
    let id = loop {
        let chunk = tokio::time::timeout(SOON, stream.chunk()).await.expect("an event").unwrap();
        heard += std::str::from_utf8(&chunk.expect("it goes on")).unwrap();
        if let Some((_, after)) = heard.split_once("event: reading\n") {
            break after.split("id: ").nth(1).unwrap().lines().next().unwrap().to_owned();
        }
    };
    // Who comes back with a new ticket says where it was in the address, and misses nothing.
    hospital.measure("101", 82.0).await;
    let path = format!("/api/v1/stream?lastEventId={id}&ticket={ticket}");
    let mut again = other.client().get(other.url(&path)).send().await.unwrap();
    let mut heard = String::new();
    while !heard.contains("\"value\":82") {
        let chunk = tokio::time::timeout(SOON, again.chunk()).await.expect("an event").unwrap();
        heard += std::str::from_utf8(&chunk.expect("it goes on")).unwrap();
    }
    assert!(!heard.contains("\"value\":81"), "{heard}");
    let replay = format!("/api/v1/patients/101/replay?speed=max&ticket={ticket}");
    assert_eq!(status(&other, &replay).await, 200);
    for path in ["/patients", "/patients/101", "/alerts", "/rules", "/stream/tickets"] {
        assert_eq!(status(&one, &format!("/api/v1{path}?ticket={ticket}")).await, 401, "{path}");
    }
    let bearer = one.client().get(one.url(&format!("/api/v1/stream?ticket={ticket}")));
    let bearer = bearer.bearer_auth(one.token("alerts:read")).send().await.unwrap();
    assert_eq!(bearer.status(), 403, "a token is judged by itself");
    assert!(!one.logged().contains(&ticket) && !other.logged().contains(&ticket));
}

/// Changed anywhere, or made elsewhere, or over, it is none.
async fn is_none_when_changed(database: &Database, server: &Server, of_patient: &str) {
    let replay = |patient: &str, ticket: &str| {
        server.url(&format!("/api/v1/patients/{patient}/replay?speed=max&ticket={ticket}"))
    };
    let asked = async |url: String| {
        let answer = server.client().get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let key: String =
        sqlx::query_scalar("select secret from ack_key").fetch_one(&database.pool()).await.unwrap();
    let seal = AckLinks::new(&key).seal("tickets").unwrap();
    let kept: Value =
        serde_json::from_str(&seal.open("stream ticket", of_patient).unwrap()).unwrap();
    let within = kept["until_ms"].as_i64().unwrap() - now().timestamp_millis();
    assert!((1..=60_000).contains(&within), "{within}");
    let mut over = kept.clone();
    over["until_ms"] = now().timestamp_millis().into();
    let mut elsewhere = kept.clone();
    elsewhere["patient"] = json!(null);
    for (what, sealed) in [
        ("over", seal.seal("stream ticket", &over.to_string(), [1; 12])),
        ("not sealed", elsewhere.to_string()),
        ("of another place", seal.seal("vitals_session", &elsewhere.to_string(), [1; 12])),
        ("cut", of_patient[..of_patient.len() - 1].to_owned()),
        ("empty", String::new()),
    ] {
        let (status, text) = asked(replay("101", &sealed)).await;
        assert_eq!(status, 401, "{what}: {text}");
    }
    let again = seal.seal("stream ticket", &elsewhere.to_string(), [1; 12]);
    assert_eq!(asked(replay("102", &again)).await.0, 200, "it is what is in it that counts");
}

#[tokio::test]
async fn a_ticket_is_as_narrow_as_its_maker_and_ends_with_them() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, TENANT);
    for patient in ["101", "102"] {
        hospital.measure(patient, 80.0).await;
    }
    let no_scope = http::send(
        reqwest::Method::POST,
        &server.url("/api/v1/stream/tickets"),
        &server.token("alerts:read"),
        None,
    )
    .await;
    assert_eq!(no_scope.json["code"], "scope_missing", "{}", no_scope.text);
    let narrow = |claim: &'static str, to: &'static str| {
        server.token_with(|claims| {
            claims["scope"] = "vitals:read".into();
            claims[claim] = to.into();
            claims["jti"] = "t-1".into();
        })
    };
    let of_patient = ticket(&server, &narrow("patient", "101")).await;
    let of_device = ticket(&server, &narrow("device", "watch-9")).await;
    let replay = |patient: &str, ticket: &str| {
        server.url(&format!("/api/v1/patients/{patient}/replay?speed=max&ticket={ticket}"))
    };
    let asked = async |url: String| {
        let answer = server.client().get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(asked(replay("101", &of_patient)).await.0, 200);
    assert_eq!(asked(replay("102", &of_patient)).await.0, 403);
    let of_ward = ticket(&server, &narrow("wards", "7b")).await;
    assert_eq!(asked(replay("101", &of_ward)).await.0, 404, "nobody lies in that ward");
    let (status_of, text) = asked(replay("101", &of_device)).await;
    assert!(status_of == 200 && !text.contains("\"value\":80"), "{text}");
    let of_other = server.token_with(|claims| {
        claims["scope"] = "vitals:read".into();
        claims["tenant"] = "others".into();
    });
    assert_eq!(asked(replay("101", &ticket(&server, &of_other).await)).await.0, 404);

    is_none_when_changed(&database, &server, &of_patient).await;

    // What it opened ends with its maker.
    let url = server.url(&format!("/api/v1/stream?ticket={of_patient}"));
    let mut stream = server.client().get(url).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let revoke = json!({ "jti": "t-1", "reason": "lost" });
    let by = server.token("tokens:revoke");
    assert_eq!(http::post(&server.url("/api/v1/tokens/revoke"), &by, &revoke).await.status, 200);
    assert_eq!(asked(replay("101", &of_patient)).await.0, 401);
    let ended = async { while stream.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(SOON, ended).await.expect("it ends");
}
