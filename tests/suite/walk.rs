//! Every route, walked by those who should not get far: without a token, without the scope,
//! with another tenant's token, with one of another device, of another patient, of another ward.
//!
//! The routes are those of the API's description; what each answers stands in [`ROWS`], and
//! a route without a row fails. Another tenant is answered as for what does not exist, to
//! the letter, and changes nothing. What a narrow token may list holds nothing of others.
//! Does not look into `/stream` for longer than its head: `tenants.rs` does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use vitals::auth::Scope;

use self::Met::{Makes, Nothing, Own, Refused};
use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::{Database, caught_up};
use crate::support::receiver::Receiver;
use crate::support::server::{Server, TENANT};
use crate::support::{eventually, http};

const SOON: Duration = Duration::from_secs(20);
/// What no id of ours is.
const NO_ID: &str = "00000000-0000-4000-8000-000000000000";
/// Of the patient whose things are asked for, and of another one.
const PATIENT: &str = "their-patient";
const WATCH: &str = "their-watch";
const OTHER_PATIENT: &str = "their-other";
const OTHER_DEVICE: &str = "their-bedside";

/// How somebody is met who asks for what is not theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// 404, to the letter that of what does not exist.
    Nothing,
    /// 403.
    Refused,
    /// Some 200 with what is their own, which is less or nothing.
    Own,
    /// Something of their own is made or asked; nothing of others is touched.
    Makes,
}

/// Method, path, and how another tenant, another device, another patient and another ward are
/// met.
type Row = (&'static str, &'static str, Met, Met, Met, Met);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("get", "/", Own, Own, Own, Own),
    ("post", "/readings", Makes, Refused, Refused, Refused),
    ("get", "/patients", Own, Refused, Own, Own),
    ("get", "/patients/{patient_id}", Nothing, Own, Refused, Nothing),
    ("put", "/patients/{patient_id}", Makes, Refused, Refused, Nothing),
    ("get", "/patients/{patient_id}/record", Nothing, Refused, Refused, Nothing),
    ("put", "/patients/{patient_id}/record", Makes, Refused, Refused, Nothing),
    ("patch", "/patients/{patient_id}/record", Makes, Refused, Refused, Nothing),
    ("get", "/patients/{patient_id}/readings", Nothing, Own, Refused, Nothing),
    ("get", "/patients/{patient_id}/diff", Nothing, Own, Refused, Nothing),
    ("post", "/patients/{patient_id}/readings/retract", Nothing, Refused, Refused, Nothing),
    ("get", "/patients/{patient_id}/{vital}", Nothing, Nothing, Refused, Nothing),
    ("get", "/wards/{ward}", Own, Refused, Own, Own),
    ("get", "/mobile/patients/{patient_id}", Nothing, Own, Refused, Nothing),
    ("get", "/devices", Own, Own, Own, Own),
    ("get", "/devices/{id}", Nothing, Refused, Nothing, Nothing),
    ("put", "/devices/{id}", Makes, Refused, Refused, Refused),
    ("post", "/devices/{id}/assign", Makes, Refused, Refused, Refused),
    ("post", "/devices/{id}/unassign", Makes, Refused, Refused, Refused),
    ("post", "/devices/{id}/reassign", Makes, Refused, Refused, Refused),
    ("get", "/patients/{patient_id}/replay", Nothing, Own, Refused, Nothing),
    ("get", "/stream", Own, Own, Own, Own),
    ("post", "/stream/tickets", Makes, Makes, Makes, Makes),
    ("get", "/alerts", Own, Own, Own, Own),
    ("get", "/alerts/{id}", Nothing, Nothing, Nothing, Nothing),
    ("get", "/alerts/{id}/ack", Nothing, Nothing, Nothing, Nothing),
    ("post", "/alerts/{id}/ack", Nothing, Nothing, Nothing, Nothing),
    ("post", "/alerts/{id}/clear", Nothing, Nothing, Nothing, Nothing),
    ("get", "/rules", Own, Refused, Refused, Refused),
    ("post", "/rules/backtest", Makes, Refused, Refused, Refused),
    ("get", "/rules/{id}", Nothing, Refused, Refused, Refused),
    ("get", "/rules/{id}/report", Nothing, Refused, Refused, Refused),
    ("put", "/rules/{id}", Makes, Refused, Refused, Refused),
    ("delete", "/rules/{id}", Nothing, Refused, Refused, Refused),
    ("get", "/rules/{id}/versions", Nothing, Refused, Refused, Refused),
    ("get", "/silences", Own, Refused, Refused, Refused),
    ("post", "/silences", Makes, Refused, Refused, Refused),
    ("get", "/silences/{id}", Nothing, Refused, Refused, Refused),
    ("delete", "/silences/{id}", Nothing, Refused, Refused, Refused),
    ("get", "/jobs/{id}", Nothing, Refused, Refused, Refused),
    ("delete", "/jobs/{id}", Nothing, Refused, Refused, Refused),
    ("post", "/exports", Makes, Refused, Refused, Refused),
    ("get", "/jobs/{id}/result", Nothing, Refused, Refused, Refused),
    ("post", "/tokens/revoke", Makes, Refused, Refused, Refused),
    ("get", "/audit", Own, Refused, Refused, Refused),
    ("get", "/api-keys", Own, Own, Own, Own),
    ("post", "/api-keys", Makes, Refused, Refused, Refused),
    ("delete", "/api-keys/{id}", Nothing, Nothing, Nothing, Nothing),
    ("get", "/webhooks", Own, Refused, Refused, Refused),
    ("post", "/webhooks", Makes, Refused, Refused, Refused),
    ("get", "/webhooks/{id}", Nothing, Refused, Refused, Refused),
    ("patch", "/webhooks/{id}", Nothing, Refused, Refused, Refused),
    ("delete", "/webhooks/{id}", Nothing, Refused, Refused, Refused),
    ("post", "/webhooks/{id}/rotate-secret", Nothing, Refused, Refused, Refused),
    ("post", "/webhooks/{id}/ping", Nothing, Refused, Refused, Refused),
    ("post", "/webhooks/{id}/replay", Nothing, Refused, Refused, Refused),
    ("get", "/webhooks/{id}/deliveries", Nothing, Refused, Refused, Refused),
    ("get", "/webhooks/{id}/events", Nothing, Refused, Refused, Refused),
    ("get", "/deliveries/{id}", Nothing, Refused, Refused, Refused),
    ("post", "/deliveries/{id}/replay", Nothing, Refused, Refused, Refused),
];

/// What their hospital has, to be asked for by others.
struct Theirs {
    alert: String,
    webhook: String,
    delivery: String,
    silence: String,
    job: String,
    api_key: String,
    export: String,
    measured_at: String,
    receiver: Receiver,
}

impl Theirs {
    async fn fill(hospital: &Hospital) -> Theirs {
        let receiver = Receiver::start().await;
        let webhook = hospital.endpoint(&receiver, &["*"]).await;
        let at = now();
        for (patient, device) in [(PATIENT, WATCH), (OTHER_PATIENT, OTHER_DEVICE)] {
            let mut reading = heart_rate(patient, 130.0, at);
            reading["deviceId"] = device.into();
            hospital.store(&[reading]).await;
        }
        let (status, _) = hospital.put("/rules/their-rule", &rule()).await;
        assert_eq!(status, 200);
        let (_, silence) = hospital.post("/silences", &silence()).await;
        let (_, job) = hospital.post("/rules/backtest", &json!({ "rule": rule() })).await;
        let (_, api_key) = hospital.post("/api-keys", &api_key()).await;
        let (_, export) = hospital.post("/exports", &json!({ "format": "csv" })).await;
        let export = export["id"].as_str().expect("an id").to_owned();
        eventually("an export", SOON, async || {
            let (_, job) = hospital.get(&format!("/jobs/{export}")).await;
            (job["state"] == "done").then_some(())
        })
        .await;
        let delivery = eventually("a delivery", SOON, async || {
            let deliveries = hospital.deliveries(&webhook).await;
            deliveries.into_iter().find(|delivery| delivery["state"] == "delivered")
        })
        .await;
        let alerts = hospital.found(&format!("/alerts?patientId={PATIENT}")).await;
        let id = |value: &Value| value["id"].as_str().expect("an id").to_owned();
        Theirs {
            alert: id(&alerts["items"][0]),
            webhook,
            delivery: id(&delivery),
            silence: id(&silence),
            job: id(&job),
            api_key: id(&api_key),
            export,
            measured_at: vitals::clock::rfc3339(at),
            receiver,
        }
    }

    /// The path with their ids in it, and with what does not exist.
    fn paths(&self, path: &str) -> (String, String) {
        let (id, nothing) = match path.split('/').nth(1).unwrap_or_default() {
            "alerts" => (&*self.alert, NO_ID),
            "webhooks" => (&*self.webhook, NO_ID),
            "deliveries" => (&*self.delivery, NO_ID),
            "silences" => (&*self.silence, NO_ID),
            "jobs" if path.ends_with("/result") => (&*self.export, NO_ID),
            "jobs" => (&*self.job, NO_ID),
            "api-keys" => (&*self.api_key, NO_ID),
            "rules" => ("their-rule", "no-rule"),
            "devices" => (WATCH, "no-watch"),
            _ => (PATIENT, "nobody"),
        };
        let more = match path.rsplit('/').next() {
            // What strangers asked for is on their own record, by their own words.
            Some("audit") => "?subject=nobody",
            Some("diff") => "?asOf=2030-01-01T00:00:00Z",
            Some("replay") if path.starts_with("/patients") => "?speed=max",
            _ => "",
        };
        let with = |id: &str| {
            let path = path.replace("{vital}", "heart-rate").replace("{patient_id}", id);
            path.replace("{ward}", "W").replace("{id}", id) + more
        };
        (with(id), with(nothing))
    }

    fn body(&self, method: &str, path: &str) -> Option<Value> {
        let body = match (method, path) {
            ("post", "/readings") => {
                let mut reading = heart_rate(PATIENT, 75.0, now());
                reading["deviceId"] = WATCH.into();
                reading
            }
            ("put" | "patch", "/patients/{patient_id}" | "/patients/{patient_id}/record") => {
                json!({ "ward": "W" })
            }
            (_, "/patients/{patient_id}/readings/retract") => json!({
                "vital": "heart_rate", "deviceId": WATCH, "measuredAt": self.measured_at,
                "reason": "by whom?",
            }),
            (_, "/tokens/revoke") => json!({ "sub": "their-lost-watch", "reason": "a walk" }),
            ("post", "/api-keys") => api_key(),
            ("put", "/devices/{id}") => json!({ "model": "Watch 7" }),
            (_, "/devices/{id}/assign") => json!({ "patientId": "somebody" }),
            (_, "/devices/{id}/reassign") => json!({
                "from": "2020-01-01T00:00:00Z", "to": "2020-01-01T00:00:01Z",
                "patientId": "somebody", "reason": "a walk",
            }),
            (_, "/rules/backtest") => json!({ "rule": rule() }),
            (_, "/exports") => json!({ "format": "csv" }),
            ("put", "/rules/{id}") => rule(),
            ("post", "/silences") => silence(),
            ("post", "/webhooks") => json!({ "url": self.receiver.url, "events": ["*"] }),
            ("patch", "/webhooks/{id}") => json!({ "description": "changed" }),
            (_, "/webhooks/{id}/replay") => json!({ "from": self.measured_at }),
            ("post", "/alerts/{id}/ack" | "/alerts/{id}/clear") => json!({ "by": "a walker" }),
            _ => return None,
        };
        Some(body)
    }
}

fn rule() -> Value {
    json!({
        "id": "their-rule", "event": "HIGH_MEDIUM", "priority": "medium", "mode": "active",
        "when": { "vital": "heart_rate", "op": ">", "value": 250 },
    })
}

fn api_key() -> Value {
    json!({ "name": "of a walk", "scope": "readings:write" })
}

fn silence() -> Value {
    let until = vitals::clock::rfc3339(now() + chrono::TimeDelta::hours(1));
    json!({ "rule": "their-rule", "reason": "a walk", "until": until })
}

/// Status and text; of a stream that does not end its status.
async fn ask(
    server: &Server,
    row: &Row,
    token: &str,
    path: &str,
    body: Option<&Value>,
) -> (u16, String) {
    let url = server.url(&format!("/api/v1{path}"));
    if path == "/stream" {
        let request = server.client().get(url);
        let request = if token.is_empty() { request } else { request.bearer_auth(token) };
        return (request.send().await.unwrap().status().as_u16(), String::new());
    }
    let method: Method = row.0.to_uppercase().parse().unwrap();
    let body = body.map(|body| body.to_string().into_bytes());
    let answer = http::send(method, &url, token, body).await;
    (answer.status.as_u16(), answer.text)
}

fn code(text: &str) -> String {
    let problem: Value = serde_json::from_str(text).unwrap_or_default();
    problem["code"].as_str().unwrap_or_default().to_owned()
}

/// What became of a question for theirs, held against how it has to be met.
async fn met(server: &Server, row: &Row, token: &str, theirs: &Theirs, how: Met, not: &[&str]) {
    let (method, path, ..) = *row;
    let (asked, nothing) = theirs.paths(path);
    let body = theirs.body(method, path);
    let (status, text) = ask(server, row, token, &asked, body.as_ref()).await;
    let what = format!("{method} {path} was to be met by {how:?}: {status} {text}");
    match how {
        Refused => assert_eq!((status, &*code(&text)), (403, "outside_token"), "{what}"),
        Own => assert_eq!(status, 200, "{what}"),
        Makes => assert!((200..300).contains(&status), "{what}"),
        Nothing => {
            let (_, expected) = ask(server, row, token, &nothing, body.as_ref()).await;
            assert_eq!((status, &text), (404, &expected), "{what}");
        }
    }
    // A path's own words may come back in links.
    let answered = text.replace(&asked, "").replace(asked.split('?').next().unwrap(), "");
    if how == Own {
        for not in not {
            assert!(!answered.contains(not), "{what}: it tells of {not}");
        }
    }
}

/// Every route's method and path with the scope that it takes, as they are described.
async fn scopes(server: &Server) -> BTreeMap<(String, String), String> {
    let document = http::get(&server.url("/api/v1/openapi.json"), "").await.json;
    let mut scopes = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let scope = operation["security"][0]["token"][0].as_str().unwrap_or_default();
            scopes.insert((method.clone(), path.clone()), scope.to_owned());
        }
    }
    let known: BTreeSet<_> = ROWS.iter().map(key).collect();
    let described: BTreeSet<_> = scopes.keys().cloned().collect();
    assert_eq!(described, known, "give a new route its row in tests/suite/walk.rs");
    scopes
}

fn key((method, path, ..): &Row) -> (String, String) {
    ((*method).to_owned(), (*path).to_owned())
}

/// Without a token, and with one that has every scope but the one.
async fn is_shut(server: &Server, row: &Row, theirs: &Theirs, scope: &str) {
    let (method, path, ..) = *row;
    let (asked, body) = (theirs.paths(path).0, theirs.body(method, path));
    let (status, text) = ask(server, row, "", &asked, body.as_ref()).await;
    assert_eq!(status, 401, "{method} {path} without a token: {text}");
    // Any good token will do.
    if scope.is_empty() {
        return;
    }
    let others: Vec<&str> =
        Scope::ALL.map(Scope::name).into_iter().filter(|other| *other != scope).collect();
    assert_eq!(others.len(), Scope::ALL.len() - 1, "what is {scope}?");
    let token = server.token(&others.join(" "));
    let (status, text) = ask(server, row, &token, &asked, body.as_ref()).await;
    // A stream's head is all of it that was read.
    let code = if path == "/stream" { "scope_missing".to_owned() } else { code(&text) };
    assert_eq!((status, &*code), (403, "scope_missing"), "{method} {path}: {text}");
}

#[tokio::test]
async fn nobody_gets_to_what_is_not_theirs_by_any_route() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let scopes = scopes(&server).await;
    let hospital = Hospital::new(&server, TENANT);
    let theirs = Theirs::fill(&hospital).await;
    caught_up(&database.pool()).await;
    let before = kept(&hospital, &theirs).await;

    let with = |claim: &str, what: &str| {
        server.token_with(|claims| {
            claims["scope"] = Scope::ALL.map(Scope::name).join(" ").into();
            claims[claim] = what.into();
        })
    };
    let (stranger, of_device) = (with("tenant", "others"), with("device", OTHER_DEVICE));
    let (of_patient, of_ward) = (with("patient", OTHER_PATIENT), with("wards", "elsewhere"));
    let own = [PATIENT, WATCH, OTHER_PATIENT, OTHER_DEVICE, &theirs.webhook, "their-rule"];
    // What strangers make is theirs, and there from then on.
    let mut rows = ROWS.to_vec();
    rows.sort_by_key(|row| row.2 == Makes);
    for row in &rows {
        let (_, _, by_tenant, by_device, by_patient, by_ward) = *row;
        is_shut(&server, row, &theirs, &scopes[&key(row)]).await;
        met(&server, row, &of_device, &theirs, by_device, &[WATCH]).await;
        met(&server, row, &of_patient, &theirs, by_patient, &[PATIENT, WATCH]).await;
        met(&server, row, &of_ward, &theirs, by_ward, &own[..4]).await;
        met(&server, row, &stranger, &theirs, by_tenant, &own).await;
    }
    caught_up(&database.pool()).await;
    assert_eq!(kept(&hospital, &theirs).await, before, "something of theirs has changed");

    // And whoever it belongs to gets there; nothing is ended before it was asked for.
    let owner = server.token(&Scope::ALL.map(Scope::name).join(" "));
    rows.sort_by_key(|(method, path, ..)| *method == "delete" || path.ends_with("/retract"));
    for row in &rows {
        let (method, path, ..) = *row;
        let body = theirs.body(method, path);
        let (status, text) = ask(&server, row, &owner, &theirs.paths(path).0, body.as_ref()).await;
        assert!((200..300).contains(&status), "{method} {path} by its owner: {status} {text}");
    }
}

/// What may not change under their feet, without what changes by itself.
async fn kept(hospital: &Hospital, theirs: &Theirs) -> Vec<Value> {
    let mut kept = Vec::new();
    for path in [
        format!("/patients/{PATIENT}/readings"),
        format!("/patients/{PATIENT}/record"),
        format!("/alerts/{}", theirs.alert),
        format!("/webhooks/{}", theirs.webhook),
        format!("/deliveries/{}", theirs.delivery),
        format!("/silences/{}", theirs.silence),
        "/rules/their-rule/versions".to_owned(),
        "/webhooks".to_owned(),
        "/silences".to_owned(),
        "/api-keys".to_owned(),
        "/rules".to_owned(),
    ] {
        kept.push(hospital.get(&path).await.1);
    }
    kept
}
