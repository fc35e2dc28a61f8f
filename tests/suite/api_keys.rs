//! API keys: made, told once, no wider than their maker, and out of use at once.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use vitals::auth::api_key::ApiKey;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::Database;
use crate::support::proxy::{Proxy, Way};
use crate::support::server::{Server, TENANT, scratch_dir};
use crate::support::{eventually, http};

const SOON: Duration = Duration::from_secs(20);

/// The key that was made, and what was told of it.
async fn made(hospital: &Hospital, wanted: Value) -> (String, Value) {
    let (status, answer) = hospital.post("/api-keys", &wanted).await;
    assert_eq!(status, 201, "{answer}");
    (answer["key"].as_str().unwrap().to_owned(), answer)
}

async fn with_key(server: &Server, path: &str, key: &str) -> (u16, Value) {
    let url = server.url(&format!("/api/v1{path}"));
    let answer = server.client().get(url).header("x-api-key", key).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
}

async fn scene() -> (Database, Server, Hospital) {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, TENANT);
    (database, server, hospital)
}

/// With these claims in place of those of a token that may do everything.
fn maker(server: &Server, hospital: &Hospital, claims: &Value) -> Hospital {
    hospital.with_token(server.token_with(|token| {
        token["sub"] = "maker".into();
        token.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    }))
}

#[tokio::test]
async fn a_key_is_told_once_and_neither_it_nor_its_hash_stands_anywhere_else() {
    let (database, server, hospital) = scene().await;
    let wanted = json!({ "name": "Monitor in bed 12", "scope": "vitals:read readings:write" });
    let (key, told) = made(&hospital, wanted).await;
    let id = told["id"].as_str().unwrap();
    assert!(key.starts_with(&format!("vk_{id}_")), "{told}");
    assert_eq!(
        (&told["scopes"], &told["madeBy"]),
        (&json!(["readings:write", "vitals:read"]), &json!("tester"))
    );
    // By either header, and as a subject of its own.
    let bearer = http::get(&server.url("/api/v1"), &key).await;
    let (status, header) = with_key(&server, "", &key).await;
    assert_eq!((bearer.status.as_u16(), status, &bearer.json), (200, 200, &header));
    assert_eq!(header["subject"], format!("key:{id}"));
    let keyed = hospital.with_token(key.clone());
    keyed.store(&[heart_rate("101", 80.0, now())]).await;
    // A wrong one is told in the log, at most.
    with_key(&server, "/patients", &format!("{}x", &key[..key.len() - 1])).await;
    let used = eventually("that it was used", SOON, async || {
        let list = hospital.found("/api-keys").await;
        (list["items"][0]["lastUsedAt"] != Value::Null).then_some(list)
    })
    .await;
    let hour = used["items"][0]["lastUsedAt"].as_str().unwrap();
    assert!(hour.ends_with(":00:00Z"), "{hour}");
    let secret = &key[key.rfind('_').unwrap() + 1..];
    let hash: Vec<u8> = sqlx::query_scalar("select hash from api_key where id = $1")
        .bind(id)
        .fetch_one(&database.pool())
        .await
        .unwrap();
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &hash);
    let events: Vec<(String, String, String)> = sqlx::query_as(
        "select type, source_id, coalesce(data::text, '') from event where patient_id = '_tenant'",
    )
    .fetch_all(&database.pool())
    .await
    .unwrap();
    let event = events.iter().find(|(kind, ..)| kind == "api_key_made").unwrap();
    assert_eq!(event.1, "tester");
    assert!(event.2.contains("Monitor in bed 12") && event.2.contains(id), "{event:?}");
    let (_, again) = hospital.delete(&format!("/api-keys/{id}")).await;
    for text in [used.to_string(), format!("{events:?}"), server.logged(), again.to_string()] {
        for hidden in [secret, &hex, &base64] {
            assert!(!text.contains(hidden), "{text}");
        }
    }
    let kept: Vec<String> = sqlx::query_scalar("select api_key::text from api_key")
        .fetch_all(&database.pool())
        .await
        .unwrap();
    assert!(kept.iter().all(|row| !row.contains(secret)), "{kept:?}");
}

#[tokio::test]
async fn what_is_no_good_key_is_refused_by_one_code_and_two_at_once_by_none() {
    let (database, server, hospital) = scene().await;
    let (key, told) = made(&hospital, json!({ "name": "a", "scope": "vitals:read" })).await;
    let (other, _) = made(&hospital, json!({ "name": "b", "scope": "vitals:read" })).await;
    let unknown = ApiKey::make(rand::random()).text().to_owned();
    let soon = vitals::clock::rfc3339(now() + chrono::TimeDelta::seconds(60));
    let wanted = json!({ "name": "short", "scope": "vitals:read", "expiresAt": soon });
    let (expired, short) = made(&hospital, wanted).await;
    sqlx::query("update api_key set expires_at = now() - interval '1 second' where id = $1")
        .bind(short["id"].as_str())
        .execute(&database.pool())
        .await
        .unwrap();
    // The name of one with the secret of another.
    let mixed = format!("{}{}", &key[..20], &other[20..]);
    let (status, _) = hospital.delete(&format!("/api-keys/{}", told["id"].as_str().unwrap())).await;
    assert_eq!(status, 204);
    let short = &key[..key.len() - 1];
    for (what, bad) in [
        ("revoked", &*key),
        ("unknown", &unknown),
        ("expired", &expired),
        ("mixed", &mixed),
        ("cut", short),
        ("nothing", "vk_"),
        ("empty", ""),
    ] {
        for answer in [with_key(&server, "/patients", bad).await, {
            let answer = http::get(&server.url("/api/v1/patients"), bad).await;
            (answer.status.as_u16(), answer.json)
        }] {
            assert_eq!((answer.0, &answer.1["code"]), (401, &json!("unauthorised")), "{what}");
        }
    }
    let token = server.token("vitals:read");
    assert_eq!(with_key(&server, "/patients", &token).await.0, 401, "a JWT is no API key");
    let url = server.url("/api/v1/patients");
    let both = server.client().get(&url).header("x-api-key", &other).bearer_auth(&token);
    let twice = server.client().get(&url).header("x-api-key", &other).header("x-api-key", &other);
    for request in [both, twice] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 400);
        assert!(answer.text().await.unwrap().contains("ambiguous_authorization"));
    }
    assert_eq!(with_key(&server, "/patients", &other).await.0, 200);
    // Ended once more: it stays as it is. Unknown, or another tenant's: there is none.
    let path = format!("/api-keys/{}", told["id"].as_str().unwrap());
    assert_eq!(hospital.delete(&path).await.0, 204);
    assert_eq!(hospital.delete("/api-keys/nothing").await.0, 404);
}

#[tokio::test]
async fn a_key_reaches_what_it_was_narrowed_to() {
    let (_database, server, hospital) = scene().await;
    for (patient, ward) in [("p1", "icu"), ("p2", "7b")] {
        let path = format!("/patients/{patient}/record");
        assert_eq!(hospital.put(&path, &json!({ "ward": ward })).await.0, 200);
        hospital.measure(patient, 80.0).await;
    }
    let scope = "vitals:read readings:write";
    let (of_device, _) =
        made(&hospital, json!({ "name": "d", "scope": scope, "device": "watch-7" })).await;
    let (of_patient, _) =
        made(&hospital, json!({ "name": "p", "scope": scope, "patient": "p1" })).await;
    let (of_ward, told) =
        made(&hospital, json!({ "name": "w", "role": "nurse", "wards": ["icu"] })).await;
    assert_eq!(told["scopes"], json!(["vitals:read", "alerts:read", "alerts:ack"]));
    let write = async |key: &str, patient: &str, device: &str| {
        let mut reading = heart_rate(patient, 80.0, now());
        reading["deviceId"] = device.into();
        hospital.with_token(key.to_owned()).post("/readings", &reading).await.0
    };
    assert_eq!(write(&of_device, "p1", "watch-7").await, 201);
    assert_eq!(write(&of_device, "p1", "watch-8").await, 403);
    assert_eq!(write(&of_patient, "p1", "watch-8").await, 201);
    assert_eq!(write(&of_patient, "p2", "watch-8").await, 403);
    assert_eq!(write(&of_ward, "p1", "watch-8").await, 403, "nurses hand in nothing");
    assert_eq!(with_key(&server, "/patients/p1", &of_ward).await.0, 200);
    assert_eq!(with_key(&server, "/patients/p2", &of_ward).await.0, 404);
    assert_eq!(with_key(&server, "/rules", &of_ward).await.0, 403);
    // A device's key is counted as a device's token is, each by itself.
    let limit = async |key: &str| {
        let url = server.url("/api/v1/patients/p1");
        let answer = server.client().get(url).header("x-api-key", key).send().await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        (header("ratelimit-limit"), header("ratelimit-policy"))
    };
    let token = |device: bool| {
        server.token_with(|claims| {
            claims["scope"] = scope.into();
            if device {
                claims["device"] = "watch-9".into();
            }
        })
    };
    let policy = async |token: String| {
        let answer =
            server.client().get(server.url("/api/v1/patients/p1")).bearer_auth(token).send().await;
        answer.unwrap().headers()["ratelimit-policy"].to_str().unwrap().to_owned()
    };
    assert_eq!(limit(&of_device).await.1, policy(token(true)).await);
    assert_eq!(limit(&of_patient).await.1, policy(token(false)).await);
    assert_ne!(limit(&of_device).await.1, limit(&of_patient).await.1);
}

#[tokio::test]
async fn nobody_makes_a_key_that_is_wider_than_they_are() {
    let (_database, server, hospital) = scene().await;
    let integrator =
        "vitals:read alerts:read readings:write patients:manage webhooks:manage keys:manage";
    let by = |claims: Value| maker(&server, &hospital, &claims);
    let plain = json!({ "name": "k", "scope": "vitals:read" });
    let with = |more: Value| {
        let mut wanted = plain.clone();
        wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        wanted
    };
    for (claims, wanted, status, code) in [
        (json!({ "scope": "vitals:read" }), with(json!({})), 403, "scope_missing"),
        (json!({ "scope": integrator }), with(json!({})), 201, ""),
        (
            json!({ "scope": integrator }),
            with(json!({ "scope": "rules:manage" })),
            403,
            "scope_missing",
        ),
        (json!({ "scope": integrator }), json!({ "name": "k", "role": "integrator" }), 201, ""),
        (
            json!({ "scope": integrator }),
            json!({ "name": "k", "role": "administrator" }),
            403,
            "scope_missing",
        ),
        (
            json!({ "scope": integrator }),
            with(json!({ "scope": "keys:manage" })),
            422,
            "invalid_api_key",
        ),
        (json!({ "scope": integrator, "device": "d" }), with(json!({})), 403, "outside_token"),
        (
            json!({ "scope": integrator, "device": "d" }),
            with(json!({ "device": "e" })),
            403,
            "outside_token",
        ),
        (json!({ "scope": integrator, "device": "d" }), with(json!({ "device": "d" })), 201, ""),
        (json!({ "scope": integrator, "patient": "p" }), with(json!({})), 403, "outside_token"),
        (json!({ "scope": integrator, "wards": "icu" }), with(json!({})), 403, "outside_token"),
        (
            json!({ "scope": integrator, "wards": "icu" }),
            with(json!({ "wards": ["icu", "7b"] })),
            403,
            "outside_token",
        ),
        (
            json!({ "scope": integrator, "wards": "icu" }),
            with(json!({ "wards": ["icu"] })),
            201,
            "",
        ),
    ] {
        let (found, answer) = by(claims.clone()).post("/api-keys", &wanted).await;
        assert_eq!(found, status, "{claims} {wanted}: {answer}");
        assert_eq!(answer["code"].as_str().unwrap_or_default(), code, "{claims} {wanted}");
    }
}

#[tokio::test]
async fn a_key_makes_none_and_who_is_narrowed_sees_and_ends_what_reaches_no_farther() {
    let (_database, server, hospital) = scene().await;
    let plain = json!({ "name": "k", "scope": "vitals:read" });
    let narrow = json!({ "scope": "vitals:read keys:manage", "wards": "icu" });
    let icu = maker(&server, &hospital, &narrow);
    made(&hospital, plain.clone()).await;
    made(&icu, json!({ "name": "k", "scope": "vitals:read", "wards": ["icu"] })).await;
    // A key that was made makes none.
    let (key, _) = made(&hospital, json!({ "name": "all", "role": "administrator" })).await;
    assert_eq!(hospital.with_token(key).post("/api-keys", &plain).await.0, 403);
    let all = hospital.found("/api-keys").await;
    let wide = all["items"].as_array().unwrap().iter().find(|key| key["wards"] == Value::Null);
    let wide = format!("/api-keys/{}", wide.unwrap()["id"].as_str().unwrap());
    let seen = icu.found("/api-keys").await;
    assert_eq!(seen["items"].as_array().unwrap().len(), 1, "{seen}");
    assert_eq!(icu.delete(&wide).await.0, 404);
    let own = format!("/api-keys/{}", seen["items"][0]["id"].as_str().unwrap());
    assert_eq!((icu.delete(&own).await.0, hospital.delete(&wide).await.0), (204, 204));
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_with_its_place() {
    let (_database, _server, hospital) = scene().await;
    let with = |more: Value| {
        let mut wanted = json!({ "name": "k", "scope": "vitals:read" });
        wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        wanted
    };
    for (wanted, code, pointer) in [
        (json!({ "scope": "vitals:read" }), "missing_field", "/name"),
        (json!({ "name": " ", "scope": "vitals:read" }), "invalid_api_key", "/name"),
        (json!({ "name": "k" }), "missing_field", "/scope"),
        (json!({ "name": "k", "scope": "" }), "invalid_api_key", "/scope"),
        (json!({ "name": "k", "scope": "vitals:raed" }), "invalid_api_key", "/scope"),
        (json!({ "name": "k", "role": "nurs" }), "invalid_api_key", "/role"),
        (with(json!({ "role": "nurse" })), "invalid_api_key", "/role"),
        (with(json!({ "device": "a b" })), "invalid_id", "/device"),
        (with(json!({ "wards": [] })), "invalid_api_key", "/wards"),
        (with(json!({ "wards": [" icu"] })), "invalid_api_key", "/wards"),
        (with(json!({ "expiresAt": "2020-01-01T00:00:00Z" })), "invalid_api_key", "/expiresAt"),
        (with(json!({ "tenant": "other" })), "unknown_field", "/tenant"),
    ] {
        let (status, answer) = hospital.post("/api-keys", &wanted).await;
        assert_eq!(
            (status, &answer["code"], &answer["pointer"]),
            (422, &json!(code), &json!(pointer)),
            "{wanted}"
        );
    }
}

#[tokio::test]
async fn a_key_is_good_on_every_instance_at_once_and_so_is_its_end_also_on_what_is_open() {
    let database = Database::new().await;
    let (one, other) = tokio::join!(Server::start(&database), Server::start(&database));
    let hospital = Hospital::new(&one, TENANT);
    let mut slowest = Duration::ZERO;
    for n in 0..10 {
        let (key, told) = made(&hospital, json!({ "name": "k", "role": "viewer" })).await;
        assert_eq!(with_key(&other, "/patients", &key).await.0, 200, "without a wait");
        assert_eq!(with_key(&one, "/patients", &key).await.0, 200);
        let (id, subject) = (told["id"].as_str().unwrap(), told["subject"].clone());
        // As a key, or as whoever has it.
        let status = if n % 2 == 0 {
            hospital.delete(&format!("/api-keys/{id}?reason=lost")).await.0
        } else {
            let revocation = json!({ "sub": subject, "reason": "lost" });
            hospital.post("/tokens/revoke", &revocation).await.0
        };
        let revoked = Instant::now();
        assert!([200, 204].contains(&status), "{status}");
        assert_eq!(with_key(&one, "/patients", &key).await.0, 401, "from the answer on");
        eventually("the other instance to know", SOON, async || {
            (with_key(&other, "/patients", &key).await.0 == 401).then_some(())
        })
        .await;
        slowest = slowest.max(revoked.elapsed());
        let list = hospital.found("/api-keys?limit=1").await;
        assert_ne!(list["items"][0]["revokedAt"], Value::Null, "{list}");
    }
    println!("the slowest of ten revocations was known to the other instance after {slowest:?}");
    let (key, told) = made(&hospital, json!({ "name": "wall", "role": "viewer" })).await;
    let wall = hospital.with_token(key);
    let mut stream = wall.request(Method::GET, "/stream").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    hospital.delete(&format!("/api-keys/{}", told["id"].as_str().unwrap())).await;
    let ended = async { while stream.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(SOON, ended).await.expect("it ends");
}

#[tokio::test]
async fn what_was_answered_of_a_key_holds_after_a_kill() {
    let (database, server, hospital) = scene().await;
    let wanted = json!({ "name": "k", "role": "viewer" });
    let (kept, _) = made(&hospital, wanted.clone()).await;
    let (ended, told) = made(&hospital, wanted).await;
    hospital.delete(&format!("/api-keys/{}", told["id"].as_str().unwrap())).await;
    server.kill().await;
    let again = Server::start(&database).await;
    assert_eq!(with_key(&again, "/patients", &kept).await.0, 200);
    assert_eq!(with_key(&again, "/patients", &ended).await.0, 401);
}

#[tokio::test]
async fn a_key_in_use_goes_on_without_the_database_and_another_is_told_to_come_again() {
    let database = Database::new().await;
    let proxy = Proxy::before(&database).await;
    let server = Server::start_in(&scratch_dir(), Some(&proxy.url), &[]).await;
    let hospital = Hospital::new(&server, TENANT);
    let (key, _) = made(&hospital, json!({ "name": "k", "role": "viewer" })).await;
    let (unused, _) = made(&hospital, json!({ "name": "k", "role": "viewer" })).await;
    assert_eq!(with_key(&server, "", &key).await.0, 200);
    proxy.set(Way::Cut);
    // Of what it may, nothing is asked of the database.
    assert_eq!(with_key(&server, "", &key).await.0, 200);
    let (status, problem) = with_key(&server, "", &unused).await;
    assert_eq!((status, &problem["code"]), (503, &json!("keys_unavailable")), "{problem}");
    proxy.set(Way::Open);
    eventually("the database", SOON, async || {
        (with_key(&server, "", &unused).await.0 == 200).then_some(())
    })
    .await;
}
