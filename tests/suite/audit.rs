//! Who has read or changed what of whom: everything that was asked for is found again, with
//! who it was, whose data, from where and by which token; and nothing of another tenant's.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use vitals::event::ACCESSES_OF;
use vitals::query::accesses::{AccessFilter, statement};

use crate::hospital::{heart_rate, now};
use crate::plans::{connect, plan, uses};
use crate::support::postgres::Database;
use crate::support::server::{Server, TENANT};
use crate::support::{cli, eventually, http};

/// Sums are told every ten seconds.
const SOON: Duration = Duration::from_secs(60);
const SCOPES: &str = "vitals:read readings:write patients:manage alerts:read alerts:ack";

fn token(server: &Server, tenant: &str, sub: &str, scope: &str) -> String {
    server.token_with(|claims| {
        claims["tenant"] = tenant.into();
        claims["scope"] = scope.into();
        claims["sub"] = sub.into();
        claims["jti"] = format!("jti-{sub}").into();
    })
}

async fn get(server: &Server, token: &str, path: &str) -> u16 {
    http::get(&server.url(&format!("/api/v1{path}")), token).await.status.as_u16()
}

async fn put(server: &Server, token: &str, path: &str, body: Value) -> u16 {
    let url = server.url(&format!("/api/v1{path}"));
    let answer = http::send(Method::PUT, &url, token, Some(body.to_string().into_bytes()));
    answer.await.status.as_u16()
}

/// What a tenant has on record, newest first.
async fn accesses(server: &Server, tenant: &str, query: &str) -> Vec<Value> {
    let token = token(server, tenant, "auditor", "audit:read");
    let answer = http::get(&server.url(&format!("/api/v1/audit?limit=1000{query}")), &token).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json["items"].as_array().unwrap().clone()
}

/// The access that looks so, once it is on record.
async fn found(server: &Server, tenant: &str, query: &str, like: Value) -> Value {
    eventually(&format!("{like}"), SOON, async || {
        let all = accesses(server, tenant, query).await;
        let like = like.as_object().unwrap();
        all.into_iter().find(|access| like.iter().all(|(key, value)| access[key] == *value))
    })
    .await
}

#[tokio::test]
async fn a_read_a_change_and_each_refusal_is_found_with_who_whom_and_from_where() {
    let database = Database::new().await;
    let options = ["--limit-device-requests", "3"];
    let server = Server::start_with(&database, &options).await;
    let nurse = token(&server, TENANT, "nurse", SCOPES);
    let reading = json!([heart_rate("101", 130.0, now())]);
    let stored = http::post(&server.url("/api/v1/readings"), &nurse, &reading).await;
    assert_eq!(stored.status, 201);
    assert_eq!(get(&server, &nurse, "/patients/101").await, 200);
    let is_known = |extra: Value| {
        let mut like = json!({
            "subject": "nurse", "tokenId": "jti-nurse", "by": "token", "address": "127.0.0.1",
        });
        like.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        like
    };
    let of_patient = "/api/v1/patients/{patient_id}";
    let like = is_known(json!({
        "action": "read", "method": "GET", "route": of_patient, "patientId": "101",
        "status": 200, "code": null, "count": 1,
    }));
    let read = found(&server, TENANT, "&patient=101&subject=nurse", like).await;
    assert!(read["at"].as_str() <= read["recordedAt"].as_str(), "{read}");

    // A change is on record when it is answered.
    let ward = json!({ "ward": "4B" });
    assert_eq!(put(&server, &nurse, "/patients/101/record", ward).await, 200);
    let changes = accesses(&server, TENANT, "&patient=101").await;
    let route = json!("/api/v1/patients/{patient_id}/record");
    assert_eq!((&changes[0]["action"], &changes[0]["route"]), (&json!("change"), &route));

    assert_eq!(get(&server, &nurse, "/webhooks?").await, 403);
    let like =
        is_known(json!({ "status": 403, "code": "scope_missing", "route": "/api/v1/webhooks" }));
    found(&server, TENANT, "", like).await;
    // What came in is in the log itself; who sent it, and how often, is a sum.
    let like = is_known(json!({ "action": "readings", "count": 1, "status": 201 }));
    found(&server, TENANT, "&subject=nurse", like).await;

    // Whose patient it is not finds nothing, and it is their tenant that sees that they asked.
    let stranger = token(&server, "other", "stranger", SCOPES);
    assert_eq!(get(&server, &stranger, "/patients/101").await, 404);
    let like =
        json!({ "subject": "stranger", "patientId": "101", "status": 404, "code": "not_found" });
    found(&server, "other", "&patient=101", like).await;
    let seen = accesses(&server, TENANT, "").await;
    assert!(!json!(seen).to_string().contains("stranger"), "{seen:?}");

    // An alert's patient stands in the answer alone.
    let alert = eventually("an alert", SOON, async || {
        let alerts = http::get(&server.url("/api/v1/alerts"), &nurse).await;
        alerts.json["items"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(get(&server, &nurse, &format!("/alerts/{alert}")).await, 200);
    let like = is_known(json!({ "resourceId": alert, "patientId": "101", "status": 200 }));
    found(&server, TENANT, "&patient=101", like).await;

    let greedy = server.token_with(|claims| {
        claims["sub"] = "greedy".into();
        claims["device"] = "watch-9".into();
        claims["scope"] = SCOPES.into();
    });
    let mut refused = 0;
    while refused < 2 {
        refused += u64::from(get(&server, &greedy, "/patients/101").await == 429);
    }
    let like = json!({ "subject": "greedy", "status": 429, "deviceId": "watch-9", "count": 2 });
    let sum = found(&server, TENANT, "&patient=101", like).await;
    assert!(sum["code"] == "rate_limited" && sum["until"].is_string(), "{sum}");
    // Who asks is asked after, too.
    let asked = found(&server, TENANT, "&subject=auditor", json!({ "status": 200 })).await;
    assert_eq!(asked["route"], "/api/v1/audit");
    let verified = cli(&database, &["verify"]).await;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[tokio::test]
async fn a_change_that_was_answered_is_on_record_whatever_kills_the_server_then() {
    let database = Database::new().await;
    for round in 0..4 {
        let server = Server::start(&database).await;
        let nurse = token(&server, TENANT, &format!("nurse-{round}"), SCOPES);
        assert_eq!(put(&server, &nurse, "/patients/7/record", json!({ "bed": "1" })).await, 200);
        server.kill().await;
    }
    let server = Server::start(&database).await;
    let known = accesses(&server, TENANT, "&patient=7").await;
    let subjects: Vec<&str> = known.iter().map(|a| a["subject"].as_str().unwrap()).collect();
    assert_eq!(subjects, ["nurse-3", "nurse-2", "nurse-1", "nurse-0"]);
}

#[tokio::test]
async fn two_instances_record_together_and_what_waited_is_there_after_an_end_in_order() {
    let database = Database::new().await;
    let (one, other) = tokio::join!(Server::start(&database), Server::start(&database));
    for (server, name) in [(&one, "at-one"), (&other, "at-other")] {
        let nurse = token(server, TENANT, name, SCOPES);
        for n in 0..20 {
            assert_eq!(get(server, &nurse, &format!("/patients/p{n}")).await, 404);
        }
    }
    // Nothing is lost that was not committed yet.
    assert!(one.terminate().await.0.success());
    for name in ["at-one", "at-other"] {
        let all = eventually("all of them", SOON, async || {
            let all = accesses(&other, TENANT, &format!("&subject={name}")).await;
            (all.len() >= 20).then_some(all)
        })
        .await;
        let patients: BTreeSet<&str> =
            all.iter().map(|access| access["patientId"].as_str().unwrap()).collect();
        assert_eq!((all.len(), patients.len()), (20, 20));
    }
    let verified = cli(&database, &["verify"]).await;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[tokio::test]
async fn pages_and_lines_hold_the_same_and_times_cut_them() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let nurse = token(&server, TENANT, "nurse", SCOPES);
    let from = now();
    for n in 0..25 {
        assert_eq!(get(&server, &nurse, &format!("/patients/p{n}")).await, 404);
    }
    let query = "&subject=nurse";
    let all = eventually("all", SOON, async || {
        let all = accesses(&server, TENANT, query).await;
        (all.len() == 25).then_some(all)
    })
    .await;
    let auditor = token(&server, TENANT, "auditor", "audit:read");
    let (mut paged, mut next) =
        (Vec::new(), Some("/api/v1/audit?subject=nurse&limit=10".to_owned()));
    while let Some(link) = next {
        let page = http::get(&server.url(&link), &auditor).await;
        paged.extend(page.json["items"].as_array().unwrap().clone());
        next = page.json["_links"]["next"].as_str().map(str::to_owned);
    }
    assert_eq!(paged, all);
    let lines = server.client().get(server.url("/api/v1/audit?subject=nurse"));
    let lines = lines.bearer_auth(&auditor).header("accept", "application/x-ndjson").send().await;
    let lines = lines.unwrap();
    assert_eq!(lines.headers()["content-type"], "application/x-ndjson");
    let text = lines.text().await.unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, all);
    let middle = all[10]["at"].as_str().unwrap();
    let (since, before) = (format!("&from={}", middle), format!("&to={}", middle));
    let newer = accesses(&server, TENANT, &[query, &since].concat()).await;
    let older = accesses(&server, TENANT, &[query, &before].concat()).await;
    assert_eq!([newer, older].concat(), all);
    let none = format!("&to={}", vitals::clock::rfc3339(from));
    assert_eq!(accesses(&server, TENANT, &[query, &none].concat()).await, [] as [Value; 0]);
    for (query, code) in [
        ("patient=a/b", "invalid_id"),
        ("subject=%01", "invalid_id"),
        ("limit=0", "invalid_limit"),
        ("cursor=x", "invalid_cursor"),
        ("user=x", "unknown_parameter"),
    ] {
        let answer = http::get(&server.url(&format!("/api/v1/audit?{query}")), &auditor).await;
        assert_eq!((answer.status.as_u16(), &answer.json["code"]), (400, &json!(code)), "{query}");
    }
}

#[tokio::test]
async fn reads_may_be_left_out_and_refusals_and_changes_never() {
    let database = Database::new().await;
    let server = Server::start_with(&database, &["--audit-reads", "none"]).await;
    let nurse = token(&server, TENANT, "nurse", SCOPES);
    assert_eq!(put(&server, &nurse, "/patients/7/record", json!({ "bed": "1" })).await, 200);
    assert_eq!(get(&server, &nurse, "/patients/7").await, 200);
    assert_eq!(get(&server, &nurse, "/rules").await, 403);
    // The queue keeps its order: what was asked before the refusal is not there.
    found(&server, TENANT, "&subject=nurse", json!({ "status": 403 })).await;
    let all = accesses(&server, TENANT, "&subject=nurse").await;
    assert_eq!(all.len(), 2, "{all:?}");
    drop(server);
    let server = Server::start_with(&database, &["--audit-reads", "5"]).await;
    let nurse = token(&server, TENANT, "sampled", SCOPES);
    for _ in 0..20 {
        assert_eq!(get(&server, &nurse, "/patients/7").await, 200);
    }
    assert_eq!(get(&server, &nurse, "/rules").await, 403);
    found(&server, TENANT, "&subject=sampled", json!({ "status": 403 })).await;
    assert_eq!(accesses(&server, TENANT, "&subject=sampled").await.len(), 5);
}

#[tokio::test]
async fn who_has_no_good_token_is_told_as_a_sum_that_belongs_to_no_tenant() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    for _ in 0..7 {
        assert_eq!(get(&server, "no token", "/patients/101").await, 401);
    }
    let sql = "select data::text from event where type = 'access' and tenant = '_log'";
    let told = eventually("the sum", SOON, async || {
        let told: Vec<String> = sqlx::query_scalar(sql).fetch_all(&database.pool()).await.unwrap();
        (!told.is_empty()).then_some(told)
    })
    .await;
    let count: u64 = told.iter().map(|data| json_of(data)["count"].as_u64().unwrap_or(1)).sum();
    assert_eq!(count, 7, "{told:?}");
    let first = json_of(&told[0]);
    assert_eq!((&first["code"], &first["address"]), (&json!("unauthorised"), &json!("127.0.0.1")));
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn a_change_that_cannot_be_recorded_is_not_answered_as_done() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let nurse = token(&server, TENANT, "nurse", SCOPES);
    let log = database.log().await;
    let shard = log.shard_of(TENANT, ACCESSES_OF);
    let elsewhere = |n: &u32| log.shard_of(TENANT, &format!("p{n}")) != shard;
    let patient = format!("p{}", (0..100).find(elsewhere).unwrap());
    let mut held = log.pool().begin().await.unwrap();
    let lock = format!("select from shard_head where shard = {shard} for update");
    sqlx::query(AssertSqlSafe(lock)).execute(&mut *held).await.unwrap();
    let path = format!("/patients/{patient}/record");
    let url = server.url(&format!("/api/v1{path}"));
    let body = json!({ "bed": "1" }).to_string().into_bytes();
    let answer = http::send(Method::PUT, &url, &nurse, Some(body)).await;
    assert_eq!((answer.status.as_u16(), &answer.json["code"]), (503, &json!("audit_unavailable")));
    // Questions go on meanwhile.
    assert_eq!(get(&server, &nurse, &path).await, 200);
    held.rollback().await.unwrap();
    let like = json!({ "action": "change", "status": 200, "subject": "nurse" });
    found(&server, TENANT, &format!("&patient={patient}"), like).await;
}

#[tokio::test]
async fn each_filter_has_an_index_in_the_order_of_the_list() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let any =
        AccessFilter { from: Some(now()), after: Some((now(), 9)), ..AccessFilter::default() };
    let of_patient = AccessFilter { patient_id: Some("p".into()), ..any.clone() };
    let by_subject = AccessFilter { subject: Some("s".into()), ..any.clone() };
    let times = "timestamptz, timestamptz, timestamptz, bigint, bigint";
    let at = "now(), now(), now(), 9, 100";
    for (filter, types, values, index) in [
        (&any, "", "", "non_reading_access "),
        (&of_patient, "text,", "'_access/p',", "non_reading_patient"),
        (&by_subject, "text,", "'s',", "non_reading_access_by"),
    ] {
        let sql = statement(0, "t", filter, 100).sql().as_str().to_owned();
        let types = format!("smallint, text, {types} {times}");
        let values = format!("0::smallint, 't', {values} {at}");
        let found = plan(&mut connection, &types, &values, &sql).await;
        uses(&found, index, "non_reading");
    }
}
