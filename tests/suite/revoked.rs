//! Tokens that are taken out of use: at once, by every process, and on what is open.

use std::time::Duration;

use serde_json::{Value, json};

use crate::hospital::now;
use crate::support::postgres::Database;
use crate::support::server::{Server, TENANT};
use crate::support::{eventually, http};

const SOON: Duration = Duration::from_secs(10);

async fn status(server: &Server, token: &str) -> u16 {
    http::get(&server.url("/api/v1/patients"), token).await.status.as_u16()
}

/// A token of somebody, made so many seconds ago.
fn token(server: &Server, sub: &str, jti: &str, ago: i64) -> String {
    server.token_with(|claims| {
        claims["scope"] = "vitals:read readings:write".into();
        claims["sub"] = sub.into();
        claims["jti"] = jti.into();
        claims["iat"] = (now().timestamp() - ago).into();
    })
}

async fn revoke(server: &Server, what: Value) -> http::Answer {
    let token = server.token("tokens:revoke");
    http::post(&server.url("/api/v1/tokens/revoke"), &token, &what).await
}

#[tokio::test]
async fn what_one_process_revokes_no_process_takes_and_not_after_a_restart() {
    let database = Database::new().await;
    let (one, other) = tokio::join!(Server::start(&database), Server::start(&database));
    let (lost, kept) = (token(&one, "watch", "t-1", 10), token(&one, "watch", "t-2", 10));
    let nurse = token(&one, "nurse", "t-3", 10);
    for token in [&lost, &kept, &nurse] {
        assert_eq!((status(&one, token).await, status(&other, token).await), (200, 200));
    }
    let answer = revoke(&one, json!({ "jti": "t-1", "reason": "lost" })).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json["jti"]),
        (200, &json!("t-1")),
        "{}",
        answer.text
    );
    assert_eq!(status(&one, &lost).await, 401, "from the answer on");
    eventually("the other process to know", SOON, || async {
        (status(&other, &lost).await == 401).then_some(())
    })
    .await;
    assert_eq!((status(&one, &kept).await, status(&other, &kept).await), (200, 200));
    // All of a subject: what it has, and not what it gets.
    let answer = revoke(&other, json!({ "sub": "watch", "reason": "stolen" })).await;
    assert_eq!(answer.json["by"], "tester", "{}", answer.text);
    eventually("the first process to know", SOON, || async {
        (status(&one, &kept).await == 401).then_some(())
    })
    .await;
    let later = token(&one, "watch", "t-4", -5);
    assert_eq!((status(&one, &later).await, status(&one, &nurse).await), (200, 200));
    let said = http::get(&one.url("/api/v1/patients"), &kept).await;
    assert!(said.json["detail"].as_str().unwrap().contains("was revoked"), "{}", said.text);
    drop(one);
    let again = Server::start(&database).await;
    assert_eq!((status(&again, &lost).await, status(&again, &kept).await), (401, 401));
    // It is in the log, in the name of who did it.
    let found: Vec<(String, String, String)> = sqlx::query_as(
        "select tenant, source_id, data ->> 'reason' from event where type = 'token_revoked' \
         order by occurred_at",
    )
    .fetch_all(&database.pool())
    .await
    .unwrap();
    let row = |reason: &str| (TENANT.to_owned(), "tester".to_owned(), reason.to_owned());
    assert_eq!(found, [row("lost"), row("stolen")]);
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let token = token(&server, "wall", "t-9", 10);
    let mut stream =
        server.client().get(server.url("/api/v1/stream")).bearer_auth(&token).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let answer = revoke(&server, json!({ "sub": "wall", "reason": "sold" })).await;
    assert_eq!(answer.status, 200);
    let ended = async { while stream.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(6 * SOON, ended).await.expect("it ends");
}

#[tokio::test]
async fn another_tenants_tokens_stay_and_what_cannot_be_meant_is_refused() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let theirs = server.token_with(|claims| {
        claims["tenant"] = "other".into();
        claims["scope"] = "vitals:read".into();
        claims["sub"] = "watch".into();
    });
    let answer = revoke(&server, json!({ "sub": "watch", "reason": "lost" })).await;
    assert_eq!(answer.status, 200);
    assert_eq!(status(&server, &theirs).await, 200);
    for (body, code, pointer) in [
        (json!({ "reason": "x" }), "missing_field", "/sub"),
        (json!({ "sub": "a" }), "missing_field", "/reason"),
        (json!({ "sub": "a", "jti": "b", "reason": "x" }), "invalid_revocation", "/jti"),
        (json!({ "sub": "", "reason": "x" }), "invalid_revocation", "/sub"),
        (json!({ "jti": "a\u{7}", "reason": "x" }), "invalid_revocation", "/jti"),
        (json!({ "jti": "a", "reason": " " }), "invalid_reason", "/reason"),
        (json!({ "jti": "a", "reason": "x", "all": true }), "unknown_field", "/all"),
    ] {
        let answer = revoke(&server, body.clone()).await;
        assert_eq!(answer.status, 422, "{body}");
        assert_eq!(
            (&answer.json["code"], &answer.json["pointer"]),
            (&json!(code), &json!(pointer)),
            "{body}"
        );
    }
}
