//! What an endpoint may ask for: keys, headers, payloads, heartbeats, pings.

use std::time::Duration;

use serde_json::{Value, json};

use crate::hospital::Hospital;
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::receiver::{Answer, Receiver};
use crate::support::server::Server;
use crate::support::{scratch_dir, write_private};
use crate::webhooks::received;

const SOON: Duration = Duration::from_secs(20);
const KEY: &str = "a key that seals what these tests hide and nothing else";
const OTHER_KEY: &str = "another key for the time after that one";

async fn start() -> (Database, Server, Hospital) {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    (database, server, hospital)
}

/// An endpoint with these options on top; what it was answered with.
async fn endpoint(hospital: &Hospital, receiver: &Receiver, options: Value) -> Value {
    let mut wish = json!({ "url": receiver.url, "events": ["*"] });
    wish.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    let (status, made) = hospital.post("/webhooks", &wish).await;
    assert_eq!(status, 201, "{made}");
    if let Some(secret) = made["secret"].as_str().filter(|secret| secret.starts_with("whsec_")) {
        receiver.set_secret(secret);
    }
    made
}

fn path(endpoint: &Value) -> String {
    format!("/webhooks/{}", endpoint["id"].as_str().unwrap())
}

#[tokio::test]
async fn bad_input_is_told_what_is_wrong_and_where() {
    let (_database, _server, hospital) = start().await;
    let receiver = Receiver::start().await;
    let good = endpoint(&hospital, &receiver, json!({})).await;
    let short = "whsec_c2hvcnQ=";
    let many: serde_json::Map<_, _> = (0..21).map(|n| (format!("x-{n}"), json!("x"))).collect();
    for (field, value, code, pointer) in [
        ("url", json!("ftp://hospital.example/"), "webhook_url_scheme", "/url"),
        ("url", json!("http://u:p@127.0.0.1/"), "webhook_url_userinfo", "/url"),
        ("url", json!("http://10.0.0.1/"), "webhook_address_refused", "/url"),
        ("events", json!([]), "invalid_events", "/events"),
        ("events", json!(["HIGH_HEART_RATE", "LOW_SPO"]), "invalid_events", "/events/1"),
        ("events", json!(["high_heart_rate"]), "invalid_events", "/events/0"),
        ("events", json!(["HEARTBEAT"]), "invalid_events", "/events/0"),
        ("secret", json!(short), "invalid_secret", "/secret"),
        ("secret", json!("hunter2"), "invalid_secret", "/secret"),
        ("secret", json!("whsk_AAAA"), "invalid_secret", "/secret"),
        ("signature", json!("rsa"), "invalid_signature", "/signature"),
        ("headers", json!({ "Host": "x" }), "invalid_headers", "/headers/Host"),
        ("headers", json!({ "webhook-id": "x" }), "invalid_headers", "/headers/webhook-id"),
        ("headers", json!({ "a/b": "x" }), "invalid_headers", "/headers/a~1b"),
        ("headers", json!({ "X-A": "a\r\nb" }), "invalid_headers", "/headers/X-A"),
        ("headers", many.into(), "invalid_headers", "/headers"),
        ("clientCertificate", json!("PEM"), "invalid_client_certificate", "/clientKey"),
        ("clientKey", json!("PEM"), "invalid_client_certificate", "/clientCertificate"),
        ("payload", json!("small"), "invalid_payload", "/payload"),
        ("heartbeat", json!("1s"), "invalid_heartbeat", "/heartbeat"),
        ("heartbeat", json!("often"), "invalid_heartbeat", "/heartbeat"),
        ("heartbeat", json!("10.5s"), "invalid_heartbeat", "/heartbeat"),
        ("description", json!("x".repeat(501)), "invalid_description", "/description"),
    ] {
        let mut wish = json!({ "url": receiver.url, "events": ["*"] });
        wish[field] = value.clone();
        let change = json!({ (field): value });
        let made = hospital.post("/webhooks", &wish).await;
        // A key is changed by rotating it.
        let changed = match field {
            "secret" | "signature" => {
                hospital.post(&format!("{}/rotate-secret", path(&good)), &change).await
            }
            _ => hospital.patch(&path(&good), &change).await,
        };
        for (status, problem) in [made, changed] {
            assert_eq!((status, &problem["code"]), (422, &json!(code)), "{change}: {problem}");
            assert_eq!(problem["pointer"], pointer, "{change}: {problem}");
            let detail = problem["detail"].as_str().unwrap();
            assert!(!detail.is_empty() && !detail.contains(short), "{problem}");
        }
    }
    assert_eq!(hospital.found("/webhooks").await["items"].as_array().unwrap().len(), 1);
    let shown = hospital.found(&path(&good)).await;
    assert_eq!((&shown["url"], &shown["events"]), (&good["url"], &good["events"]));
}

#[tokio::test]
async fn options_are_shown_and_secrets_only_when_they_are_made() {
    let (_database, _server, hospital) = start().await;
    let receiver = Receiver::start().await;
    let made = endpoint(
        &hospital,
        &receiver,
        json!({ "headers": { "Authorization": "Bearer inside" }, "heartbeat": "5m", "payload": "thin" }),
    )
    .await;
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    let shown = hospital.found(&path(&made)).await;
    let expect = json!({
        "signature": "hmac", "publicKey": null, "headerNames": ["authorization"],
        "clientCertificate": null, "payload": "thin", "heartbeat": "300s",
    });
    for (key, value) in expect.as_object().unwrap() {
        assert_eq!((&made[key], &shown[key]), (value, value), "{key}");
    }
    assert!(!shown.to_string().contains("inside") && shown.get("secret").is_none(), "{shown}");
    let off = json!({ "headers": {}, "heartbeat": null, "payload": "full" });
    let (status, off) = hospital.patch(&path(&made), &off).await;
    assert_eq!((status, &off["heartbeat"], &off["payload"]), (200, &Value::Null, &json!("full")));
    assert_eq!(off["headerNames"], json!([]));

    let pair = endpoint(&hospital, &receiver, json!({ "signature": "ed25519" })).await;
    assert!(pair["secret"].as_str().unwrap().starts_with("whsk_"), "{pair}");
    let shown = hospital.found(&path(&pair)).await;
    assert!(shown["publicKey"].as_str().unwrap().starts_with("whpk_"), "{shown}");
    assert!(!shown.to_string().contains("whsk_"), "{shown}");
}

#[tokio::test]
async fn after_a_rotation_both_secrets_sign_and_nothing_is_missed() {
    let (_database, _server, hospital) = start().await;
    let receiver = Receiver::start().await;
    let made = endpoint(&hospital, &receiver, json!({})).await;
    let rotate = format!("{}/rotate-secret", path(&made));
    hospital.measure("101", 130.0).await;
    received(&receiver, 1).await;
    let (status, rotated) = hospital.post(&rotate, &json!({})).await;
    assert_eq!(status, 200, "{rotated}");
    assert!(rotated["previousUntil"].is_string(), "{rotated}");
    hospital.measure("101", 100.0).await;
    // The receiver verifies with the secret that it was told first.
    let second = received(&receiver, 2).await.remove(1);
    let secrets = [&made["secret"], &rotated["secret"]].map(|secret| secret.as_str().unwrap());
    assert_ne!(secrets[0], secrets[1]);
    assert!(secrets.iter().all(|secret| second.is_signed_with(secret)), "{second:?}");

    // Each keeps its 24 hours, so the fifth within them has to wait.
    let mut newest = String::new();
    for _ in 0..3 {
        let (status, rotated) = hospital.post(&rotate, &json!({})).await;
        assert_eq!(status, 200, "{rotated}");
        newest = rotated["secret"].as_str().unwrap().to_owned();
    }
    let (status, problem) = hospital.post(&rotate, &json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("rotated_too_often")), "{problem}");
    hospital.measure("102", 130.0).await;
    let third = received(&receiver, 3).await.remove(2);
    assert!(secrets.iter().all(|secret| third.is_signed_with(secret)));
    assert!(third.is_signed_with(&newest));
}

/// Every secret text of the endpoints, as the database holds it.
async fn stored(database: &Database) -> Vec<String> {
    sqlx::query_scalar(
        "select unnest(array[secret, headers] || secrets_before) from endpoint \
         union all select secret from ack_key",
    )
    .fetch_all(&database.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn secrets_are_sealed_once_there_is_a_key_and_no_other_key_opens_them() {
    let (database, server, hospital) = start().await;
    let receiver = Receiver::start().await;
    let wish = json!({ "headers": { "X-Ward": "the inner way" } });
    let made = endpoint(&hospital, &receiver, wish).await;
    hospital.post(&format!("{}/rotate-secret", path(&made)), &json!({})).await;
    assert!(server.logged().contains("VITALS_SECRETS_KEY"), "it says what is readable");
    assert!(stored(&database).await.contains(&made["secret"].as_str().unwrap().to_owned()));
    server.kill().await;

    // The rows of before are taken over, and go on working.
    let with_keys = async |keys: &str| {
        let dir = scratch_dir();
        write_private(&dir.join("secrets-key"), keys);
        let options = ["--allow-webhook-net", "127.0.0.0/8"];
        Server::try_start_in(&dir, Some(&database.url), &options).await
    };
    let server = with_keys(KEY).await.unwrap();
    let sealed = stored(&database).await;
    assert_eq!(sealed.len(), 4, "{sealed:?}");
    assert!(sealed.iter().all(|text| text.starts_with("sealed.")), "{sealed:?}");
    let hospital = hospital.after_restart(&server);
    hospital.measure("101", 130.0).await;
    let first = received(&receiver, 1).await.remove(0);
    assert_eq!(first.headers["x-ward"], "the inner way");
    server.kill().await;

    // Another key alone is refused at the start; beside the old one it takes over.
    let Err(said) = with_keys(OTHER_KEY).await else { panic!("it started with a foreign key") };
    assert!(said.contains("VITALS_SECRETS_KEY"), "{said}");
    assert_eq!(stored(&database).await, sealed);
    drop(with_keys(&format!("{OTHER_KEY},{KEY}")).await.unwrap());
    assert!(stored(&database).await.iter().all(|text| !sealed.contains(text)));
    let server = with_keys(OTHER_KEY).await.unwrap();
    let hospital = hospital.after_restart(&server);
    hospital.measure("101", 100.0).await;
    let second = received(&receiver, 2).await.remove(1);
    assert!(second.is_signed_with(made["secret"].as_str().unwrap()), "both secrets sign still");
}

#[tokio::test]
async fn a_changed_endpoint_is_called_as_it_is_now() {
    let (_database, _server, hospital) = start().await;
    let (before, after) = (Receiver::start().await, Receiver::start().await);
    let made = endpoint(&hospital, &before, json!({ "headers": { "X-Ward": "4b" } })).await;
    after.set_secret(made["secret"].as_str().unwrap());
    hospital.measure("101", 130.0).await;
    let first = received(&before, 1).await.remove(0);
    assert_eq!(
        (&first.headers["x-ward"], &first.headers["content-type"]),
        (&"4b".parse().unwrap(), &"application/json".parse().unwrap())
    );
    let change = json!({ "url": after.url, "headers": { "X-Ward": "5a" } });
    assert_eq!(hospital.patch(&path(&made), &change).await.0, 200);
    hospital.measure("101", 100.0).await;
    let second = received(&after, 1).await.remove(0);
    assert_eq!(second.headers["x-ward"], "5a");
    received(&before, 1).await;
}

#[tokio::test]
async fn a_thin_payload_names_no_patient_and_no_value() {
    let (_database, _server, hospital) = start().await;
    let (full, thin) = (Receiver::start().await, Receiver::start().await);
    endpoint(&hospital, &full, json!({})).await;
    endpoint(&hospital, &thin, json!({ "payload": "thin" })).await;
    hospital.measure("patient-of-bed-seven", 137.0).await;
    let full = received(&full, 1).await.remove(0);
    let thin = received(&thin, 1).await.remove(0);
    assert_eq!(
        (&full.body["patientId"], &full.body["value"]),
        (&json!("patient-of-bed-seven"), &json!(137))
    );
    for hidden in ["patient", "bed-seven", "watch-7", "heart_rate"] {
        assert!(!thin.text.contains(hidden), "{hidden} in {}", thin.text);
    }
    let keys: Vec<&String> = thin.body.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["type", "timestamp", "event", "alertId", "state", "priority", "_links"]);
    for same in ["type", "alertId", "state", "priority", "timestamp"] {
        assert_eq!(thin.body[same], full.body[same], "{same}");
    }
    assert_eq!(thin.body["_links"]["alert"], full.body["_links"]["alert"]);
    assert_eq!(thin.id, full.id, "the same alert, told shorter");
}

#[tokio::test]
async fn a_ping_tells_at_once_what_became_of_it_also_while_the_endpoint_is_paused() {
    let (_database, server, hospital) = start().await;
    let receiver = Receiver::start().await;
    let made = endpoint(&hospital, &receiver, json!({ "headers": { "X-Ward": "4b" } })).await;
    let ping = format!("{}/ping", path(&made));
    hospital.patch(&path(&made), &json!({ "state": "paused" })).await;
    let (status, pinged) = hospital.post(&ping, &json!({})).await;
    assert_eq!(status, 200, "{pinged}");
    assert_eq!((&pinged["delivered"], &pinged["status"]), (&json!(true), &json!(204)), "{pinged}");
    assert!(pinged["latencyMs"].is_u64() && pinged["error"].is_null(), "{pinged}");
    let came = received(&receiver, 1).await.remove(0);
    assert_eq!(
        (&came.body["type"], &came.headers["x-ward"]),
        (&json!("PING"), &"4b".parse().unwrap())
    );
    assert_eq!(pinged["webhookId"], came.id);
    assert_eq!(hospital.deliveries(made["id"].as_str().unwrap()).await, Vec::<Value>::new());

    receiver.answer_next([Answer::Status(503)]);
    let (status, pinged) = hospital.post(&ping, &json!({})).await;
    assert_eq!(
        (status, &pinged["delivered"], &pinged["status"]),
        (200, &json!(false), &json!(503))
    );
    drop(receiver);
    let (status, pinged) = hospital.post(&ping, &json!({})).await;
    assert_eq!((status, &pinged["status"]), (200, &Value::Null), "{pinged}");
    assert!(pinged["error"].as_str().is_some_and(|error| !error.is_empty()), "{pinged}");
    let theirs = Hospital::new(&server, "other");
    assert_eq!(theirs.post(&ping, &json!({})).await.0, 404);
    assert_eq!(theirs.post(&format!("{}/rotate-secret", path(&made)), &json!({})).await.0, 404);
}

#[tokio::test]
async fn heartbeats_come_at_once_and_then_at_their_pace_and_never_in_a_heap() {
    let (database, _server, hospital) = start().await;
    let _second_instance = Server::start(&database).await;
    let (receiver, dead) = (Receiver::start().await, Receiver::start().await);
    let made = endpoint(&hospital, &receiver, json!({ "heartbeat": "10s" })).await;
    dead.answer_always(Answer::Status(500));
    let failing = endpoint(&hospital, &dead, json!({ "heartbeat": "10s" })).await;
    let first = received(&receiver, 1).await.remove(0);
    assert_eq!(
        (&first.body["type"], &first.body["nextWithinSeconds"]),
        (&json!("HEARTBEAT"), &json!(10))
    );
    assert_eq!(first.body["webhook"], made["id"]);

    // The time until the next one is over; nobody waits for it.
    let pass = async || {
        sqlx::query("update endpoint set heartbeat_due_at = clock_timestamp()")
            .execute(&database.pool())
            .await
            .unwrap();
    };
    pass().await;
    let second = received(&receiver, 2).await.remove(1);
    assert_ne!(first.id, second.id);
    // What was not taken yet waits alone: nothing is put on top of it.
    let waiting = hospital.deliveries(failing["id"].as_str().unwrap()).await;
    assert_eq!((waiting.len(), &waiting[0]["state"]), (1, &json!("pending")), "{waiting:?}");
    // Whoever looks again for who is due makes none before its time.
    let witness = Receiver::start().await;
    endpoint(&hospital, &witness, json!({ "heartbeat": "10s" })).await;
    received(&witness, 1).await;
    let made_id = made["id"].as_str().unwrap();
    assert_eq!(hospital.deliveries(made_id).await.len(), 2);
    // Paused, it is left alone.
    hospital.patch(&path(&made), &json!({ "state": "paused" })).await;
    pass().await;
    received(&witness, 2).await;
    assert_eq!(hospital.deliveries(made_id).await.len(), 2, "none waits for it either");
    dead.answer_always(Answer::Status(204));
    // Whoever mends an endpoint says so: what waits for its next attempt is tried now, also
    // after a second one that failed, whose next would be in five minutes.
    let mend = "update delivery d set due_at = due_at + interval '5 minutes' \
                where endpoint_id = $1 and state = 'pending'";
    let id: uuid::Uuid = failing["id"].as_str().unwrap().parse().unwrap();
    sqlx::query(mend).bind(id).execute(&database.pool()).await.unwrap();
    hospital.patch(&path(&failing), &json!({ "state": "active" })).await;
    eventually("the one that waited", SOON, || async {
        let all = hospital.deliveries(failing["id"].as_str().unwrap()).await;
        (all[0]["state"] == "delivered").then_some(())
    })
    .await;
    received(&receiver, 2).await;
}
