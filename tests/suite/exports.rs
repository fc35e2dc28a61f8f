//! Exports: they say what history says, as it was known when they began; they outlive the
//! instance that began them, and are handed out by any, in any parts.
//!
//! An export is kept from its work by a lock on the table that it writes or reads.

mod killed;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::{cli, eventually, scratch_dir};

/// A lease has to run out, and the machine may be busy.
const SOON: Duration = Duration::from_secs(120);
const OCTETS: &str = "application/octet-stream";

fn spring() -> DateTime<Utc> {
    "2019-03-02T08:00:00Z".parse().unwrap()
}

/// Nobody gets at a table, or not further than its mode lets them, until this is let go.
async fn held(database: &Database, table: &str) -> PgConnection {
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let lock = format!("begin; lock table {table}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut connection).await.unwrap();
    connection
}

async fn let_go(mut lock: PgConnection) {
    sqlx::raw_sql("rollback").execute(&mut lock).await.unwrap();
    lock.close().await.unwrap();
}

/// A reading with a context, so that few are many bytes.
fn reading(patient: &str, n: i64, context: usize) -> Value {
    let mut reading = heart_rate(patient, 60.0 + (n % 40) as f64, spring() + TimeDelta::seconds(n));
    reading["deviceId"] = format!("watch-{}", n % 2).into();
    reading["context"] = json!({ "note": "x".repeat(context) });
    reading
}

/// Two patients with some readings each, one of them with a vital more.
async fn with_readings(hospital: &Hospital) {
    let mut readings: Vec<Value> = (0..300).map(|n| reading("101", n, n as usize % 3)).collect();
    readings.extend((0..200).map(|n| reading("102", n, 2)));
    for n in 0..100 {
        let mut more = reading("101", n * 7, 0);
        (more["vital"], more["unit"], more["value"]) = ("spo2".into(), "%".into(), 97.5.into());
        more["quality"] = json!(0.5);
        more.as_object_mut().unwrap().remove("context");
        readings.push(more);
    }
    hospital.store(&readings).await;
}

/// Starts an export; its path.
async fn started(hospital: &Hospital, asked: Value) -> String {
    let (status, body) = hospital.post("/exports", &asked).await;
    assert_eq!(status, 202, "{body}");
    format!("/jobs/{}", body["id"].as_str().unwrap())
}

async fn until(hospital: &Hospital, job: &str, state: &str) -> Value {
    eventually(&format!("a job that is {state}"), SOON, || async {
        let (status, body) = hospital.get(job).await;
        assert_eq!(status, 200, "{body}");
        assert!(body["state"] == state || body["error"].is_null(), "{body}");
        (body["state"] == state).then_some(body)
    })
    .await
}

/// The bytes of an export that is done, which are as its job says.
async fn bytes_of(hospital: &Hospital, job: &str) -> Bytes {
    let done = until(hospital, job, "done").await;
    let path = done["_links"]["data"].as_str().unwrap().trim_start_matches("/api/v1");
    let answer = hospital.request(Method::GET, path).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let bytes = answer.bytes().await.unwrap();
    assert_eq!(done["result"]["bytes"], bytes.len());
    assert_eq!(done["result"]["sha256"], hex(&bytes));
    assert_eq!(done["progress"]["of"], done["result"]["readings"]);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn exported(hospital: &Hospital, asked: Value) -> Bytes {
    let job = started(hospital, asked).await;
    bytes_of(hospital, &job).await
}

/// A whole history as a table.
async fn history(hospital: &Hospital, patient: &str, accept: &str, query: &str) -> Bytes {
    let path = format!("/patients/{patient}/readings?{query}");
    let answer = hospital.request(Method::GET, &path).header("accept", accept).send().await;
    answer.unwrap().error_for_status().unwrap().bytes().await.unwrap()
}

async fn part(hospital: &Hospital, job: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = hospital.request(Method::GET, &format!("{job}/result"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

/// Rows of the log by their place in time, without their place in it.
async fn log_of(pool: &PgPool, tenant: &str) -> Vec<(String, String, String, f64, String)> {
    sqlx::query_as(
        "select patient_id, vital::text, source_id, value, \
                occurred_at::text || coalesce(quality::text, '-') || coalesce(data::text, '-') \
         from event e where tenant = $1 and type = 'reading' and not exists ( \
            select from event r where r.tenant = $1 and r.type = 'reading_retracted' \
            and r.shard = e.shard and (r.data ->> 'readingPosition')::bigint = e.position) \
         order by 1, 5, 2, 3",
    )
    .bind(tenant)
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn retract(hospital: &Hospital, patient: &str, n: i64) {
    let path = format!("/patients/{patient}/readings/retract");
    let body = json!({
        "vital": "heart_rate", "deviceId": format!("watch-{}", n % 2),
        "measuredAt": rfc3339(spring() + TimeDelta::seconds(n)), "reason": "another patient's",
    });
    assert_eq!(hospital.post(&path, &body).await.0, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_says_what_history_says_and_comes_in_again() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    with_readings(&hospital).await;
    retract(&hospital, "101", 5).await;
    for (format, accept) in [
        ("csv", "text/csv"),
        ("ndjson", "application/x-ndjson"),
        ("parquet", "application/vnd.apache.parquet"),
    ] {
        let one = exported(&hospital, json!({ "format": format, "patients": ["101"] })).await;
        assert!(one == history(&hospital, "101", accept, "").await, "{format} of one patient");
        let (from, to) = (rfc3339(spring()), rfc3339(spring() + TimeDelta::seconds(90)));
        let asked = json!({ "format": format, "patients": ["nobody", "101"], "vitals": ["spo2"],
                            "from": from, "to": to });
        let query = format!("vital=spo2&from={from}&to={to}");
        let some = exported(&hospital, asked).await;
        assert!(some == history(&hospital, "101", accept, &query).await, "{format} of a part");
    }
    let pool = database.pool();
    let own = log_of(&pool, "ward").await;
    assert_eq!(own.len(), 599, "one of 600 was taken back");
    for format in ["csv", "ndjson"] {
        let all = exported(&hospital, json!({ "format": format })).await;
        let path = scratch_dir().join("export");
        std::fs::write(&path, &all).unwrap();
        let path = path.to_str().unwrap();
        let import = ["import", "--format", format, "--tenant", format, path];
        let output = cli(&database, &import).await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(log_of(&pool, format).await, own, "{format} came in as something else");
    }
    // What nobody ever measured is a table without rows.
    let none = exported(&hospital, json!({ "format": "csv", "patients": ["nobody"] })).await;
    assert_eq!(none.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert!(
        exported(&hospital, json!({ "format": "ndjson", "patients": ["no"] })).await.is_empty()
    );
}

/// Some megabytes, of two patients.
async fn with_much(hospital: &Hospital) {
    for patient in ["101", "102"] {
        let readings: Vec<Value> = (0..2_000).map(|n| reading(patient, n, 900)).collect();
        hospital.store(&readings).await;
    }
}

fn id_of(job: &str) -> Uuid {
    job.trim_start_matches("/jobs/").parse().unwrap()
}

async fn parts(pool: &PgPool, job: &str) -> i64 {
    let sql = "select count(*) from export_part where job = $1";
    sqlx::query_scalar(sql).bind(id_of(job)).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_handed_out_in_any_parts_by_any_instance() {
    let database = Database::new().await;
    let (server, other) = (Server::start(&database).await, Server::start(&database).await);
    let hospital = Hospital::new(&server, "ward");
    with_much(&hospital).await;
    let job = started(&hospital, json!({ "format": "ndjson" })).await;
    let whole = bytes_of(&hospital, &job).await;
    assert!(parts(&database.pool(), &job).await > 2);
    let hospital = hospital.after_restart(&other);
    let length = whole.len();
    let answer = part(&hospital, &job, &[("accept-encoding", "gzip, zstd")]).await;
    let headers: BTreeMap<&str, &str> = answer
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    let tag = headers["etag"].to_owned();
    assert_eq!(tag, format!("\"{}\"", hex(&whole)));
    assert_eq!(
        (headers["accept-ranges"], headers["content-type"]),
        ("bytes", "application/x-ndjson")
    );
    assert_eq!(headers["content-length"], length.to_string());
    assert!(headers["content-disposition"].starts_with("attachment; filename=\"vitals-"));
    assert!(!headers.contains_key("content-encoding"), "its bytes are those that were hashed");

    // Over the border of two parts, as curl goes on with what broke off, and the last ones.
    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=1000000-1100000".to_owned(), 1_000_000, 1_100_001),
        (format!("bytes={}-", length - 7), length - 7, length),
        ("bytes=-9".to_owned(), length - 9, length),
    ] {
        let answer = part(&hospital, &job, &[("range", &range), ("if-range", &tag)]).await;
        assert_eq!(answer.status(), 206, "{range}");
        let told = answer.headers()["content-range"].to_str().unwrap().to_owned();
        assert_eq!(told, format!("bytes {from}-{}/{length}", to - 1));
        assert!(answer.bytes().await.unwrap() == whole[from..to], "{range}");
    }
    for (headers, status) in [
        (vec![("range", "bytes=0-1"), ("if-range", "\"another\"")], 200),
        (vec![("range", "bytes=0-1,5-6")], 200),
        (vec![("range", "bytes=99999999-")], 416),
        (vec![("if-none-match", &*tag)], 304),
    ] {
        let answer = part(&hospital, &job, &headers).await;
        assert_eq!(answer.status(), status, "{headers:?}");
        if status == 416 {
            assert_eq!(answer.headers()["content-range"], format!("bytes */{length}"));
        }
        let body = answer.bytes().await.unwrap();
        assert!(status != 200 || body == whole);
        assert!(status != 304 || body.is_empty());
    }
    let path = format!("{job}/result");
    let head = hospital.request(Method::HEAD, &path).send().await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-length"], length.to_string());
    assert_eq!(Hospital::new(&other, "stranger").get(&path).await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cancelled_let_go_or_expired_is_put_away() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    with_much(&hospital).await;
    let pool = database.pool();
    let mut lock = held(&database, "export_part in exclusive mode").await;
    let cancelled = started(&hospital, json!({ "format": "ndjson" })).await;
    until(&hospital, &cancelled, "running").await;
    assert_eq!(hospital.get(&format!("{cancelled}/result")).await.0, 404, "it is not whole");
    assert_eq!(hospital.delete(&cancelled).await.0, 204);
    // What it had written before; and then whoever runs it tries to write more.
    let part = "insert into export_part (job, first, tenant, data) values ($1, 0, 'ward', 'x')";
    sqlx::query(part).bind(id_of(&cancelled)).execute(&mut lock).await.unwrap();
    sqlx::raw_sql("commit").execute(&mut lock).await.unwrap();
    let gone = async |job: &str| {
        eventually("its parts to be gone", SOON, || async {
            (parts(&pool, job).await == 0).then_some(())
        })
        .await;
    };
    gone(&cancelled).await;
    assert_eq!(hospital.get(&cancelled).await.1["state"], "cancelled");

    let (let_go, expired) = (
        started(&hospital, json!({ "format": "csv" })).await,
        started(&hospital, json!({ "format": "csv" })).await,
    );
    until(&hospital, &let_go, "done").await;
    let done = until(&hospital, &expired, "done").await;
    let expires: DateTime<Utc> = done["result"]["expiresAt"].as_str().unwrap().parse().unwrap();
    assert!((expires - now() - TimeDelta::hours(24)).abs() < TimeDelta::minutes(5));
    assert_eq!(hospital.delete(&let_go).await.0, 204);
    let old = "update export set expires_at = now() - interval '1 s' where job = $1";
    sqlx::query(old).bind(id_of(&expired)).execute(&pool).await.unwrap();
    for job in [&let_go, &expired] {
        let (status, body) = hospital.get(&format!("{job}/result")).await;
        assert_eq!((status, &body["code"]), (410, &json!("export_expired")));
        assert_eq!(hospital.get(job).await.1["state"], "done", "what was done is told");
        gone(job).await;
    }
    let forgotten = "update job set ended_at = now() - interval '25 hours'";
    sqlx::raw_sql(forgotten).execute(&pool).await.unwrap();
    eventually("the jobs to be forgotten", SOON, || async {
        (hospital.get(&format!("{expired}/result")).await.0 == 404).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_are_bounded_and_those_of_one_tenant_leave_others_room() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (greedy, modest) = (Hospital::new(&server, "greedy"), Hospital::new(&server, "modest"));
    with_readings(&greedy).await;
    with_readings(&modest).await;
    let pool = database.pool();
    let job = started(&greedy, json!({ "format": "csv" })).await;
    until(&greedy, &job, "done").await;
    // Almost as many bytes as a tenant may keep: the next one does not fit.
    let most = vitals::export::TENANT_BYTES_MAX;
    let full = "update export set bytes = $1 where tenant = 'greedy'";
    sqlx::query(full).bind(most - 100).execute(&pool).await.unwrap();
    let job = started(&greedy, json!({ "format": "csv" })).await;
    let failed = until(&greedy, &job, "failed").await;
    assert!(failed["error"].as_str().unwrap().contains("DELETE the jobs"), "{failed}");
    sqlx::query(full).bind(most).execute(&pool).await.unwrap();
    let (status, body) = greedy.post("/exports", &json!({ "format": "csv" })).await;
    assert_eq!((status, &body["code"]), (429, &json!("too_many_export_bytes")));
    let job = started(&modest, json!({ "format": "csv" })).await;
    until(&modest, &job, "done").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_many_exports_do_not_hold_up_its_backtest() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    with_readings(&hospital).await;
    let lock = held(&database, "reading_2019").await;
    let mut exports = Vec::new();
    for _ in 0..6 {
        exports.push(started(&hospital, json!({ "format": "csv" })).await);
    }
    until(&hospital, &exports[0], "running").await;
    let backtest = json!({ "rule": { "id": "mine", "event": "MINE", "priority": "medium",
        "when": { "vital": "heart_rate", "op": ">", "value": 120 } } });
    let (_, trial) = hospital.post("/rules/backtest", &backtest).await;
    let trial = format!("/jobs/{}", trial["id"].as_str().unwrap());
    let_go(lock).await;
    let of_trial = until(&hospital, &trial, "done").await;
    let mut later = 0;
    for export in &exports {
        let done = until(&hospital, export, "done").await;
        let begun =
            |job: &Value| -> DateTime<Utc> { job["startedAt"].as_str().unwrap().parse().unwrap() };
        later += usize::from(begun(&done) > begun(&of_trial));
    }
    assert_eq!(later, 5, "it was asked for after all of them, and done after the first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_exported_is_refused_with_its_place() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let key = age::x25519::Identity::generate().to_public().to_string();
    let many: Vec<String> = (0..1_001).map(|n| format!("p-{n}")).collect();
    for (asked, code, pointer) in [
        (json!({}), "invalid_body", "/format"),
        (json!({ "format": "xlsx" }), "invalid_body", "/format"),
        (json!({ "format": "csv", "vital": ["spo2"] }), "unknown_field", "/vital"),
        (json!({ "format": "csv", "vitals": ["mood"] }), "invalid_body", "/vitals/0"),
        (json!({ "format": "csv", "vitals": [] }), "invalid_body", "/vitals"),
        (json!({ "format": "csv", "patients": ["101", "no id"] }), "invalid_id", "/patients/1"),
        (json!({ "format": "csv", "patients": many }), "invalid_body", "/patients"),
        (json!({ "format": "csv", "from": "yesterday" }), "invalid_body", "/from"),
        (
            json!({ "format": "csv", "from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z" }),
            "invalid_range",
            "/to",
        ),
        (json!({ "format": "csv", "recipients": [] }), "invalid_body", "/recipients"),
        (
            json!({ "format": "csv", "recipients": [key, "age1qqqq"] }),
            "invalid_recipient",
            "/recipients/1",
        ),
    ] {
        let (status, body) = hospital.post("/exports", &asked).await;
        assert_eq!((status, &body["code"]), (422, &json!(code)), "{asked}: {body}");
        assert_eq!(body["pointer"], pointer, "{asked}: {body}");
    }
    let narrowed = server.token_with(|claims| {
        claims["tenant"] = "ward".into();
        claims["scope"] = "vitals:read".into();
        claims["patient"] = "101".into();
    });
    let (status, body) =
        hospital.with_token(narrowed).post("/exports", &json!({ "format": "csv" })).await;
    assert_eq!((status, &body["code"]), (403, &json!("outside_token")));
    let backtests = server.token_with(|claims| {
        claims["tenant"] = "ward".into();
        claims["scope"] = "rules:manage".into();
    });
    let job = started(&hospital, json!({ "format": "csv" })).await;
    until(&hospital, &job, "done").await;
    assert_eq!(hospital.with_token(backtests).get(&job).await.0, 403, "it takes vitals:read");
}
