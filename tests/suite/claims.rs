//! What stands in a token, and what tokens are signed with: read by its standards, and
//! refused where it says less, or more, than it seems.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::hospital::now;
use crate::support::http::get;
use crate::support::postgres::Database;
use crate::support::server::{SECRET, Server, client, command};
use crate::support::{eventually, scratch_dir};

const SOON: Duration = Duration::from_secs(30);

/// A token with these members of its head and its claims beside the usual ones.
fn forge(head: Value, claims: Value) -> String {
    let mut all = [
        json!({ "typ": "JWT", "alg": "HS256" }),
        json!({
            "iss": "tests", "aud": "vitals", "sub": "tester", "tenant": "ward",
            "scope": "vitals:read", "exp": now().timestamp() + 600,
        }),
    ];
    for (value, more) in all.iter_mut().zip([head, claims]) {
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    let [head, claims] = all.map(|value| URL_SAFE_NO_PAD.encode(value.to_string()));
    let signed = format!("{head}.{claims}");
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any key does");
    mac.update(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

async fn ask(server: &Server, token: &str) -> (u16, String) {
    let answer = get(&server.url("/api/v1/patients"), token).await;
    (answer.status.as_u16(), answer.text)
}

#[tokio::test]
async fn a_time_may_have_a_fraction_and_ends_to_the_millisecond() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let at = |seconds: f64| json!(now().timestamp_millis() as f64 / 1_000.0 + seconds);
    for claims in [
        json!({ "exp": now().timestamp() as f64 + 600.5 }),
        json!({ "exp": at(600.123), "nbf": at(-5.25) }),
        json!({ "exp": 1e18 }),
        json!({ "exp": u64::MAX }),
    ] {
        let (status, text) = ask(&server, &forge(json!({}), claims.clone())).await;
        assert_eq!(status, 200, "{claims}: {text}");
    }
    for claims in [
        json!({ "exp": at(-0.5) }),
        json!({ "exp": -1e300 }),
        json!({ "nbf": at(600.5) }),
        json!({ "exp": "tomorrow" }),
        json!({ "exp": null }),
        json!({ "exp": [1] }),
    ] {
        let (status, text) = ask(&server, &forge(json!({}), claims.clone())).await;
        assert_eq!(status, 401, "{claims}: {text}");
    }
    let end = now() + chrono::TimeDelta::milliseconds(2_500);
    let token = forge(json!({}), json!({ "exp": end.timestamp_millis() as f64 / 1_000.0 }));
    eventually("the token to expire", SOON, async || {
        (ask(&server, &token).await.0 == 401).then_some(())
    })
    .await;
    assert!(now() >= end - chrono::TimeDelta::milliseconds(1), "not before its time");
}

#[tokio::test]
async fn a_token_that_demands_what_is_not_understood_is_refused() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    for head in [
        json!({ "crit": ["exp"], "exp": 1 }),
        json!({ "crit": ["b64"], "b64": false }),
        json!({ "crit": ["https://hospital.example/ward"], "https://hospital.example/ward": "4b" }),
        json!({ "crit": [] }),
        json!({ "crit": "exp" }),
    ] {
        let (status, text) = ask(&server, &forge(head.clone(), json!({}))).await;
        assert_eq!(status, 401, "{head}: {text}");
    }
    let (status, text) = ask(&server, &forge(json!({ "x5t": "more" }), json!({}))).await;
    assert_eq!(status, 200, "what demands nothing is passed over: {text}");
}

#[tokio::test]
async fn a_subject_has_a_name_that_can_be_read() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (longest, longer) = ("ü".repeat(255), "x".repeat(256));
    for sub in ["a", "nurse@hospital.example", "urn:uuid:1", "Schwester Anna", &longest] {
        let (status, text) = ask(&server, &forge(json!({}), json!({ "sub": sub }))).await;
        assert_eq!(status, 200, "{sub}: {text}");
    }
    let huge = "x".repeat(20_000);
    for sub in ["", " ", "a\0b", "a\nb", "\u{7f}", "a\u{85}b", &longer, &huge] {
        let (status, text) = ask(&server, &forge(json!({}), json!({ "sub": sub }))).await;
        assert_eq!(status, 401, "{sub:?}: {text}");
        assert!(text.contains("printable"), "{text}");
    }
}

#[tokio::test]
async fn two_authorization_headers_are_refused_whichever_is_good() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let good = format!("Bearer {}", forge(json!({}), json!({})));
    for two in [[&*good, "Bearer x"], ["Bearer x", &good], [&good, &good], [&good, "Basic eDp5"]] {
        let request = client().get(server.url("/api/v1/patients"));
        let answer = two.iter().fold(request, |r, value| r.header("authorization", *value));
        let answer = answer.send().await.unwrap();
        assert_eq!(answer.status(), 400, "{two:?}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "ambiguous_authorization", "{problem}");
    }
}

#[tokio::test]
async fn where_issuers_are_named_tokens_of_others_are_refused() {
    let database = Database::new().await;
    let issuers = ["--jwt-issuer", "https://login.hospital.example,https://old.example"];
    let server = Server::start_with(&database, &issuers).await;
    let status = async |claims: Value| ask(&server, &forge(json!({}), claims)).await.0;
    assert_eq!(status(json!({ "iss": "https://login.hospital.example" })).await, 200);
    assert_eq!(status(json!({ "iss": "https://old.example" })).await, 200);
    for other in ["https://evil.example", "https://login.hospital.example/", "vitals", ""] {
        assert_eq!(status(json!({ "iss": other })).await, 401, "{other}");
    }
    // The program's own command makes what its server takes.
    let arguments = ["token", "--tenant", "ward", "--subject", "s", "--scope", "vitals:read"];
    let token = async |more: &[&str]| {
        let dir = scratch_dir();
        let output =
            command(&dir, Some(&database.url)).args(arguments).args(more).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(ask(&server, &token(&issuers).await).await.0, 200);
    assert_eq!(ask(&server, &token(&[]).await).await.0, 401);
}

#[tokio::test]
async fn a_secret_that_can_be_guessed_or_read_by_others_is_refused_at_the_start() {
    let dir = scratch_dir();
    let arguments = ["token", "--tenant", "t", "--subject", "s", "--scope", "vitals:read"];
    let run = async |secret: Option<&str>, dir: &std::path::Path| {
        let mut command = command(dir, None);
        match secret {
            Some(secret) => command.env("VITALS_JWT_SECRET", secret),
            None => command.env_remove("VITALS_JWT_SECRET"),
        };
        let output = command.args(arguments).output().await.unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    for weak in ["a".repeat(32), "password".repeat(5), "0123456789".repeat(4)] {
        let (good, said) = run(Some(&weak), &dir).await;
        assert!(!good && said.contains("openssl rand"), "{weak}: {said}");
    }
    // Made by the program: good. Opened to others: not.
    assert_eq!(run(None, &dir).await, (true, String::new()));
    let file = dir.join("jwt-secret");
    for mode in [0o666, 0o644, 0o604] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let (good, said) = run(None, &dir).await;
        assert!(!good && said.contains("chmod 600") && said.contains("jwt-secret"), "{said}");
    }
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(run(None, &dir).await, (true, String::new()));
    // The key that webhooks' secrets are sealed with is as good a secret.
    let database = Database::new().await;
    let mut weak = command(&scratch_dir(), Some(&database.url));
    let output =
        weak.env("VITALS_SECRETS_KEY", "k".repeat(40)).args(["serve", "--listen", "127.0.0.1:0"]);
    let said = String::from_utf8(output.output().await.unwrap().stderr).unwrap();
    assert!(said.contains("VITALS_SECRETS_KEY") && said.contains("guessed"), "{said}");
}
