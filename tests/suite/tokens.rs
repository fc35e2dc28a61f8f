//! Who may do what: every token that must not open anything, and what narrow ones open.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::http::{Answer, get, post, send};
use crate::support::postgres::Database;
use crate::support::server::{SECRET, Server, client};

const SOON: Duration = Duration::from_secs(20);
const NO_ID: &str = "00000000-0000-0000-0000-000000000000";

/// Every route, and the scope that it takes.
const ROUTES: [(&str, &str, &str); 26] = [
    ("POST", "/readings", "readings:write"),
    ("GET", "/patients", "vitals:read"),
    ("GET", "/patients/101", "vitals:read"),
    ("PUT", "/patients/101", "patients:manage"),
    ("PUT", "/patients/101/record", "patients:manage"),
    ("PATCH", "/patients/101/record", "patients:manage"),
    ("GET", "/patients/101/record", "vitals:read"),
    ("GET", "/patients/101?asOf=2025-10-20T10:20:00Z", "vitals:read"),
    ("GET", "/patients/101/heart-rate", "vitals:read"),
    ("GET", "/patients/101/readings", "vitals:read"),
    ("GET", "/patients/101/replay?speed=max", "vitals:read"),
    ("GET", "/stream", "vitals:read"),
    ("GET", "/alerts", "alerts:read"),
    ("GET", "/alerts/00000000-0000-0000-0000-000000000000", "alerts:read"),
    ("POST", "/alerts/00000000-0000-0000-0000-000000000000/ack", "alerts:ack"),
    ("GET", "/webhooks", "webhooks:manage"),
    ("POST", "/webhooks", "webhooks:manage"),
    ("GET", "/webhooks/00000000-0000-0000-0000-000000000000", "webhooks:manage"),
    ("PATCH", "/webhooks/00000000-0000-0000-0000-000000000000", "webhooks:manage"),
    ("DELETE", "/webhooks/00000000-0000-0000-0000-000000000000", "webhooks:manage"),
    ("GET", "/webhooks/00000000-0000-0000-0000-000000000000/deliveries", "webhooks:manage"),
    ("POST", "/webhooks/00000000-0000-0000-0000-000000000000/rotate-secret", "webhooks:manage"),
    ("POST", "/webhooks/00000000-0000-0000-0000-000000000000/ping", "webhooks:manage"),
    ("POST", "/webhooks/00000000-0000-0000-0000-000000000000/replay", "webhooks:manage"),
    ("GET", "/deliveries/00000000-0000-0000-0000-000000000000", "webhooks:manage"),
    ("POST", "/deliveries/00000000-0000-0000-0000-000000000000/replay", "webhooks:manage"),
];

async fn ask(server: &Server, method: &str, path: &str, token: &str) -> Answer {
    let body = match (method, path) {
        ("GET" | "DELETE", _) => None,
        ("POST", "/readings") => Some(heart_rate("101", 80.0, now())),
        ("POST", "/webhooks") => Some(json!({ "url": "http://127.0.0.1:9/", "events": ["*"] })),
        ("POST", path) if path.starts_with("/webhooks/") && path.ends_with("/replay") => {
            Some(json!({ "from": "2025-10-20T10:20:00Z" }))
        }
        _ => Some(json!({})),
    };
    let url = server.url(&format!("/api/v1{path}"));
    let method: Method = method.parse().unwrap();
    send(method, &url, token, body.map(|body| body.to_string().into_bytes())).await
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{what}");
    assert!(answer.json["code"].is_string() && answer.json["detail"].is_string(), "{what}");
    assert!(!answer.text.contains(SECRET) && !answer.text.contains("eyJ"), "{}", answer.text);
}

/// A token of our own making: any header, any claims, signed by HMAC-SHA256 with `key`.
fn forge(header: &Value, claims: &Value, key: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key does");
    mac.update(signed.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    format!("{signed}.{signature}")
}

fn claims() -> Value {
    let soon = now().timestamp() + 600;
    json!({
        "iss": "tests", "aud": "vitals", "sub": "tester", "tenant": "hospital-1",
        "scope": "vitals:read readings:write", "exp": soon,
    })
}

/// The claims with one changed; `Null` takes it out.
fn claims_with(key: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[key] = value.into();
    if claims[key].is_null() {
        claims.as_object_mut().unwrap().remove(key);
    }
    claims
}

/// A token is verified once and remembered; its time is judged with every request.
#[tokio::test]
async fn a_token_that_was_good_is_refused_once_it_expires() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hs256 = json!({ "typ": "JWT", "alg": "HS256" });
    let end = now().timestamp() + 6;
    let token = forge(&hs256, &claims_with("exp", end), SECRET.as_bytes());
    for (method, path) in [("GET", "/patients"), ("POST", "/readings"), ("POST", "/readings")] {
        let answer = ask(&server, method, path, &token).await;
        assert!(answer.status.is_success(), "{method} {path}: {}", answer.text);
    }
    let refused = eventually("the token to expire", SOON, async || {
        let answer = ask(&server, "POST", "/readings", &token).await;
        (answer.status != 201).then_some(answer)
    })
    .await;
    assert_refused(&refused, 401, "expired");
    assert!(refused.text.contains("has expired"), "{}", refused.text);
    assert!(now().timestamp() >= end, "not before its time");
}

#[tokio::test]
async fn a_token_is_refused_until_it_begins() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hs256 = json!({ "typ": "JWT", "alg": "HS256" });
    let begin = now().timestamp() + 6;
    let token = forge(&hs256, &claims_with("nbf", begin), SECRET.as_bytes());
    // The second time it is known.
    for _ in 0..2 {
        let refused = ask(&server, "POST", "/readings", &token).await;
        assert_refused(&refused, 401, "too early");
        assert!(refused.text.contains("not good yet"), "{}", refused.text);
    }
    eventually("the token to begin", SOON, async || {
        (ask(&server, "POST", "/readings", &token).await.status == 201).then_some(())
    })
    .await;
    assert!(now().timestamp() >= begin, "not before its time");
}

#[tokio::test]
async fn a_token_that_is_not_ours_for_us_and_in_time_opens_nothing() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let secret = SECRET.as_bytes();
    let hs256 = json!({ "typ": "JWT", "alg": "HS256" });
    let good = forge(&hs256, &claims(), secret);
    assert_eq!(ask(&server, "GET", "/patients", &good).await.status, 200, "the forge works");

    let unsigned = |alg: &str| {
        let token = forge(&json!({ "typ": "JWT", "alg": alg }), &claims(), secret);
        format!("{}.", token.rsplit_once('.').unwrap().0)
    };
    let (head, signature) = good.rsplit_once('.').unwrap();
    let other_claims = URL_SAFE_NO_PAD.encode(claims_with("tenant", "hospital-2").to_string());
    let cut = format!("{head}.{}", &signature[..signature.len() - 4]);
    let moved = format!("{}.{other_claims}.{signature}", good.split('.').next().unwrap());
    let of_claims = |claims: Value| forge(&hs256, &claims, secret);
    let of_header = |header: Value, key: &[u8]| forge(&header, &claims(), key);
    let own_key = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode("mine") });
    let minute_ago = now().timestamp() - 60;
    let bad = [
        ("no token", String::new()),
        ("no JWT", "secret".to_owned()),
        ("two dots", "..".to_owned()),
        ("another key", forge(&hs256, &claims(), b"another secret that is long enough as well")),
        ("an empty key", forge(&hs256, &claims(), b"")),
        ("no signature", format!("{head}.")),
        ("half a signature", cut),
        ("the signature of other claims", moved),
        ("alg none", unsigned("none")),
        ("alg None", unsigned("None")),
        ("alg HS256 without signature", unsigned("HS256")),
        ("alg none with a signature", of_header(json!({ "alg": "none" }), secret)),
        ("RS256 signed with the secret", of_header(json!({ "alg": "RS256" }), secret)),
        ("ES256 signed with the secret", of_header(json!({ "alg": "ES256" }), secret)),
        ("EdDSA signed with the secret", of_header(json!({ "alg": "EdDSA" }), secret)),
        ("HS512 that is HS256", of_header(json!({ "alg": "HS512" }), secret)),
        ("a key of its own", of_header(json!({ "alg": "HS256", "jwk": own_key }), b"mine")),
        ("a key by name", of_header(json!({ "alg": "HS256", "kid": "/dev/null" }), b"")),
        ("no algorithm", of_header(json!({ "typ": "JWT" }), secret)),
        ("expired", of_claims(claims_with("exp", now().timestamp() - 1))),
        ("expired a minute ago", of_claims(claims_with("exp", minute_ago))),
        ("no end", of_claims(claims_with("exp", Value::Null))),
        ("an end that is no number", of_claims(claims_with("exp", "tomorrow"))),
        ("for another", of_claims(claims_with("aud", "billing"))),
        ("for another, also", of_claims(claims_with("aud", "vitals2"))),
        ("for nobody", of_claims(claims_with("aud", Value::Null))),
        ("of no tenant", of_claims(claims_with("tenant", Value::Null))),
        ("of a tenant that cannot be", of_claims(claims_with("tenant", "a/b"))),
        ("of the empty tenant", of_claims(claims_with("tenant", ""))),
        ("of nobody", of_claims(claims_with("sub", Value::Null))),
    ];
    for (what, token) in bad {
        for (method, path) in [("GET", "/patients"), ("POST", "/readings")] {
            let answer = ask(&server, method, path, &token).await;
            assert_refused(&answer, 401, what);
            assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        }
    }
    // Only in its header, and only as a bearer.
    let url = server.url("/api/v1/patients");
    let in_query = get(&format!("{url}?access_token={good}"), "").await;
    assert_refused(&in_query, 401, "in the query");
    let basic = client().get(&url).header("authorization", format!("Basic {good}"));
    assert_eq!(basic.send().await.unwrap().status(), 401);
    let lower = client().get(&url).header("authorization", format!("bearer {good}"));
    assert_eq!(lower.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn without_a_token_only_health_numbers_and_the_page_answer() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    for (method, path, _) in ROUTES {
        assert_refused(&ask(&server, method, path, "").await, 401, path);
    }
    // Not even what there is can be found out.
    assert_refused(&ask(&server, "GET", "/nothing", "").await, 401, "/nothing");
    for path in ["/health/live", "/health/ready", "/metrics", "/"] {
        assert_eq!(get(&server.url(path), "").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn each_route_takes_its_scope_and_no_other() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let all = [
        "readings:write",
        "readings:correct",
        "vitals:read",
        "alerts:read",
        "alerts:ack",
        "rules:manage",
        "webhooks:manage",
    ];
    for (method, path, scope) in ROUTES {
        let others: Vec<&str> = all.into_iter().filter(|other| *other != scope).collect();
        let almost = format!("{scope}s x{scope} {}", scope.to_uppercase());
        for scopes in [others.join(" "), almost, String::new()] {
            let answer = ask(&server, method, path, &server.token(&scopes)).await;
            assert_refused(&answer, 403, &format!("{method} {path} with \"{scopes}\""));
        }
        if path == "/stream" {
            continue;
        }
        let answer = ask(&server, method, path, &server.token(scope)).await;
        assert!(![401, 403].contains(&answer.status.as_u16()), "{method} {path}: {}", answer.text);
        let among = server.token(&format!("{} {scope}", others.join(" ")));
        let answer = ask(&server, method, path, &among).await;
        assert!(![401, 403].contains(&answer.status.as_u16()), "{method} {path}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_token_of_one_device_writes_and_sees_only_its_own() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    let token = server.token_with(|claims| {
        claims["scope"] = "readings:write vitals:read alerts:read webhooks:manage".into();
        claims["device"] = "watch-7".into();
    });
    let url = |path: &str| server.url(&format!("/api/v1{path}"));
    let own = heart_rate("101", 80.0, now());
    let mut other = heart_rate("101", 90.0, now());
    other["deviceId"] = "watch-8".into();

    assert_eq!(post(&url("/readings"), &token, &own).await.status, 201);
    assert_refused(&post(&url("/readings"), &token, &other).await, 403, "another device");
    let mixed = json!([heart_rate("102", 70.0, now()), other]);
    let answer = post(&url("/readings"), &token, &mixed).await;
    assert_eq!((answer.status.as_u16(), &answer.json["stored"]), (207, &json!(1)));
    assert_eq!(answer.json["rejected"][0]["index"], 1);

    // Another device knows something newer, which this token does not see.
    hospital.store(&[other]).await;
    let history = get(&url("/patients/101/readings"), &token).await;
    let values: Vec<&Value> =
        history.json["items"].as_array().unwrap().iter().map(|item| &item["value"]).collect();
    assert_eq!(values, [80]);
    for path in ["/patients/101", "/patients/101/replay?speed=max"] {
        let answer = get(&url(path), &token).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.text.contains("watch-8"), "{path}: {}", answer.text);
    }
    // What is about more than its own.
    for (method, path) in [
        ("GET", "/patients"),
        ("PUT", "/patients/101"),
        ("GET", "/webhooks"),
        ("POST", "/webhooks"),
    ] {
        let answer = ask(&server, method, path, &token).await;
        assert_refused(&answer, 403, path);
    }
    let newest = get(&url("/patients/101/heart-rate"), &token).await;
    assert_eq!((newest.status.as_u16(), &newest.json["heartRate"]), (200, &json!(80)));
    let state = get(&url("/patients/101"), &token).await;
    assert_eq!(state.json["vitals"]["heart_rate"]["value"], 80, "{}", state.text);
}

#[tokio::test]
async fn a_token_of_one_patient_writes_and_sees_only_theirs() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    hospital.measure("102", 130.0).await;
    let token = server.token_with(|claims| {
        claims["scope"] = "readings:write vitals:read alerts:read alerts:ack".into();
        claims["patient"] = "101".into();
    });
    let url = |path: &str| server.url(&format!("/api/v1{path}"));
    let own = heart_rate("101", 80.0, now());
    let other = heart_rate("102", 80.0, now());
    assert_eq!(post(&url("/readings"), &token, &own).await.status, 201);
    assert_refused(&post(&url("/readings"), &token, &other).await, 403, "another patient");
    assert_eq!(get(&url("/patients/101/heart-rate"), &token).await.json["heartRate"], 80);

    for path in ["", "?asOf=2030-01-01T00:00:00Z", "/heart-rate", "/readings", "/replay?speed=max"]
    {
        let [theirs, nobodys] = ["102", "nobody"].map(|patient| {
            let (url, token) = (url(&format!("/patients/{patient}{path}")), token.clone());
            async move { get(&url, &token).await }
        });
        let (theirs, nobodys) = (theirs.await, nobodys.await);
        assert!([403, 404].contains(&theirs.status.as_u16()), "{path}: {}", theirs.text);
        assert_eq!((theirs.status, theirs.text), (nobodys.status, nobodys.text), "{path}");
    }
    let list = get(&url("/patients"), &token).await;
    assert_eq!(list.json["items"].as_array().unwrap().len(), 1, "{}", list.text);
    assert_eq!(list.json["items"][0]["patientId"], "101");
    assert_eq!(get(&url("/alerts"), &token).await.json["items"], json!([]));
    let asked = get(&url(&format!("/alerts/{NO_ID}")), &token).await;
    assert_eq!(asked.status, 404);
}
