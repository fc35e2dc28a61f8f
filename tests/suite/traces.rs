//! Traces: what came in with a request goes through the log and out with the webhook, and is
//! told to a collector, whose absence nobody feels.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::collector::Collector;
use crate::support::eventually;
use crate::support::postgres::{Database, caught_up};
use crate::support::receiver::{Answer, Delivery, Receiver};
use crate::support::server::Server;

const SOON: Duration = Duration::from_secs(60);
const NETS: [&str; 2] = ["--allow-webhook-net", "127.0.0.0/8"];
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
/// Nobody's, and in no other text.
const PATIENT: &str = "patient-4711";

/// Posts one heart rate, with these headers.
async fn post(hospital: &Hospital, reading: &Value, headers: &[(&str, &str)]) {
    let mut request = hospital.request(Method::POST, "/readings").json(reading);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
}

async fn received(receiver: &Receiver, count: usize) -> Vec<Delivery> {
    eventually(&format!("{count} deliveries"), SOON, || async {
        let came = receiver.deliveries();
        (came.len() >= count).then_some(came)
    })
    .await
}

fn header<'d>(delivery: &'d Delivery, name: &str) -> Option<&'d str> {
    delivery.headers.get(name).map(|value| value.to_str().unwrap())
}

/// Trace and span of a `traceparent` that says "sampled".
fn ids(traceparent: &str) -> (&str, &str) {
    let parts: Vec<&str> = traceparent.split('-').collect();
    assert_eq!((parts[0], parts[3], parts.len()), ("00", "01", 4), "{traceparent}");
    (parts[1], parts[2])
}

/// What the log says of alerts, oldest first.
async fn alerts(pool: &PgPool) -> Vec<Value> {
    let rows: Vec<(sqlx::types::Json<Value>,)> = sqlx::query_as(
        "select data from non_reading where type ~ '^[A-Z]' and data ->> 'alertId' is not null \
         order by recorded_at",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    rows.into_iter().map(|(data,)| data.0).collect()
}

/// Contexts that are kept for the rules.
async fn kept(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from trace").fetch_one(pool).await.unwrap()
}

/// The value of a counter, with its labels.
async fn counted(server: &Server, name: &str) -> f64 {
    let text = server.client().get(server.url("/metrics")).send().await.unwrap();
    let text = text.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_leads_from_the_reading_through_another_instance_to_the_webhook() {
    let database = Database::new().await;
    let (collector, receiver) = (Collector::start().await, Receiver::start().await);
    let traced = ["--otlp-endpoint", &collector.url, "--trace-ratio", "0"];
    let api = [&["--roles", "api"], &NETS[..], &traced].concat();
    let workers = [&["--roles", "workers"], &NETS[..], &traced].concat();
    let server = Server::start_with(&database, &api).await;
    let _workers = Server::start_with(&database, &workers).await;
    let hospital = Hospital::new(&server, "ward");
    hospital.endpoint(&receiver, &["*"]).await;
    receiver.answer_next([Answer::Status(500)]);

    let sent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [("traceparent", &*sent), ("tracestate", "congo=t61rcWkgMzE")];
    post(&hospital, &heart_rate(PATIENT, 141.25, now()), &headers).await;
    let tries = received(&receiver, 2).await;

    let request = collector.one(TRACE, "POST /api/v1/readings").await;
    assert_eq!(request.parent, PARENT);
    assert_eq!(request.says("http.route"), Some("/api/v1/readings"));
    assert_eq!(request.says("http.response.status_code"), Some("201"));
    assert_eq!(request.says("vitals.tenant"), Some("ward"));
    let append = collector.one(TRACE, "append").await;
    assert_eq!(append.parent, request.span);
    assert_eq!(collector.one(TRACE, "commit").await.parent, append.span);
    let rules = collector.one(TRACE, "rules").await;
    assert_eq!(rules.parent, append.span);
    let fan_out = collector.one(TRACE, "fan-out").await;
    assert_eq!(fan_out.parent, rules.span);
    let attempts = collector.named(TRACE, "attempt", 2).await;
    for (nth, attempt) in (0..).zip(&attempts) {
        assert_eq!(attempt.parent, fan_out.span);
        assert_eq!(attempt.says("vitals.attempt"), Some(&*(nth + 1).to_string()));
        assert_eq!(attempt.failed, nth == 0);
        // What the receiver does follows from the attempt.
        let told = header(&tries[nth], "traceparent").unwrap();
        assert_eq!(ids(told), (TRACE, &*attempt.span));
        assert_eq!(header(&tries[nth], "tracestate"), Some("congo=t61rcWkgMzE"));
    }
    // It is in the event, and so under the chain.
    let pool = database.pool();
    let alert = &alerts(&pool).await[0];
    assert_eq!(ids(alert["traceparent"].as_str().unwrap()), (TRACE, &*rules.span));
    assert_eq!(alert["tracestate"], "congo=t61rcWkgMzE");
    // Patients are none of a collector's business.
    for secret in [PATIENT, "watch-7", "141.25", "heart_rate", "HIGH_HEART_RATE"] {
        assert!(!collector.has_met(secret), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reading_goes_on_with_the_trace_that_it_came_with() {
    let database = Database::new().await;
    let (collector, receiver) = (Collector::start().await, Receiver::start().await);
    let traced = ["--otlp-endpoint", &collector.url, "--trace-ratio", "0"];
    let server = Server::start_with(&database, &[&NETS[..], &traced].concat()).await;
    let hospital = Hospital::new(&server, "ward");
    hospital.endpoint(&receiver, &["*"]).await;
    // Of a series that is new, of one that is known, and again: a duplicate has no place.
    let readings = [140.0, 90.0].map(|value| heart_rate(PATIENT, value, now()));
    let traces = ["a".repeat(32), "b".repeat(32), "c".repeat(32)];
    let sent = traces.clone().map(|trace| format!("00-{trace}-{PARENT}-01"));
    for (nth, (reading, sent)) in readings.iter().chain([&readings[1]]).zip(&sent).enumerate() {
        post(&hospital, reading, &[("traceparent", sent)]).await;
        received(&receiver, (nth + 1).min(2)).await;
    }
    for (delivery, trace) in receiver.deliveries().iter().zip(&traces) {
        assert_eq!(ids(header(delivery, "traceparent").unwrap()).0, trace);
    }
    let pool = database.pool();
    collector.one(&traces[2], "append").await;
    let beyond: i64 = sqlx::query_scalar(
        "select count(*) from trace t join shard_head h on h.shard = t.shard \
         where t.position_to > h.position or t.position_from > t.position_to",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!((kept(&pool).await, beyond), (2, 0));
    // What the rules have read past is of no use any more.
    caught_up(&pool).await;
    let sweep = include_str!("../../src/rules/sweep_traces.sql");
    sqlx::query(sweep).bind("rules").execute(&pool).await.unwrap();
    assert_eq!(kept(&pool).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_request_that_is_not_recorded_nothing_is_left() {
    let database = Database::new().await;
    let (collector, receiver) = (Collector::start().await, Receiver::start().await);
    let traced = ["--otlp-endpoint", &collector.url, "--trace-ratio", "0"];
    let server = Server::start_with(&database, &[&NETS[..], &traced].concat()).await;
    let hospital = Hospital::new(&server, "ward");
    hospital.endpoint(&receiver, &["*"]).await;
    let (not, malformed) = (format!("00-{TRACE}-{PARENT}-00"), format!("00-{TRACE}-{PARENT}-1"));
    for (value, headers) in [
        (140.0, vec![]),
        (90.0, vec![("traceparent", &*not)]),
        (141.0, vec![("traceparent", &*malformed)]),
    ] {
        post(&hospital, &heart_rate(PATIENT, value, now()), &headers).await;
    }
    for delivery in received(&receiver, 3).await {
        assert_eq!(header(&delivery, "traceparent"), None);
    }
    let pool = database.pool();
    assert_eq!(kept(&pool).await, 0);
    assert!(alerts(&pool).await.iter().all(|alert| alert.get("traceparent").is_none()));
    assert!(collector.steps().is_empty(), "{:#?}", collector.steps());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_correction_brings_about_has_a_trace_of_its_own() {
    let database = Database::new().await;
    let (collector, receiver) = (Collector::start().await, Receiver::start().await);
    let traced = ["--otlp-endpoint", &collector.url, "--trace-ratio", "1"];
    let server = Server::start_with(&database, &[&NETS[..], &traced].concat()).await;
    let hospital = Hospital::new(&server, "ward");
    hospital.endpoint(&receiver, &["*", "ALERT_RETRACTED"]).await;
    let sent = format!("00-{TRACE}-{PARENT}-01");
    let reading = heart_rate(PATIENT, 140.0, now());
    post(&hospital, &reading, &[("traceparent", &sent)]).await;
    received(&receiver, 1).await;
    let wrong = json!({
        "vital": "heart_rate", "deviceId": "watch-7", "measuredAt": reading["measuredAt"],
        "reason": "another patient's",
    });
    let (status, _) = hospital.post(&format!("/patients/{PATIENT}/readings/retract"), &wrong).await;
    assert_eq!(status, 201);
    let told = received(&receiver, 2).await;
    let (first, second) = (header(&told[0], "traceparent"), header(&told[1], "traceparent"));
    assert_eq!(ids(first.unwrap()).0, TRACE);
    let (own, _) = ids(second.unwrap());
    assert_ne!(own, TRACE);
    let rules = collector.one(own, "rules").await;
    assert_eq!(rules.parent, "");
    assert_eq!(collector.one(own, "fan-out").await.parent, rules.span);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_is_said_once_and_holds_up_nobody() {
    let database = Database::new().await;
    let receiver = Receiver::start().await;
    let collector = Collector::start().await;
    let traced = ["--otlp-endpoint", &collector.url, "--trace-ratio", "1"];
    let server = Server::start_with(&database, &[&NETS[..], &traced].concat()).await;
    let hospital = Hospital::new(&server, "ward");
    hospital.endpoint(&receiver, &["*"]).await;
    eventually("traces to arrive", SOON, || async {
        (!collector.steps().is_empty()).then_some(())
    })
    .await;
    // Killed, with its connections.
    drop(collector);
    let mut failed = 0.0;
    for (nth, value) in (1..).zip([140.0, 90.0, 141.0]) {
        hospital.measure(PATIENT, value).await;
        let told = received(&receiver, nth).await;
        assert!(header(&told[nth - 1], "traceparent").is_some());
        failed = eventually("a batch that was given up", SOON, || async {
            let now = counted(&server, "vitals_trace_spans_total{outcome=\"failed\"}").await;
            (now > failed).then_some(now)
        })
        .await;
    }
    let said = server.logged().matches("the collector does not take traces").count();
    assert_eq!(said, 1, "{}", server.logged());
    // With spans that nobody takes it ends in time as well.
    hospital.measure(PATIENT, 90.0).await;
    let (status, took) = server.terminate().await;
    assert!(status.success() && took < Duration::from_secs(10), "{status} after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_more_traces_than_there_may_be_is_answered_and_not_recorded() {
    let database = Database::new().await;
    let collector = Collector::start().await;
    let traced = ["--otlp-endpoint", &collector.url, "--trace-ratio", "0"];
    let server = Server::start_with(&database, &traced).await;
    let hospital = Hospital::new(&server, "ward");
    let sent = format!("00-{TRACE}-{PARENT}-01");
    eventually("requests that were too many", SOON, || async {
        let asked = (0..60).map(|_| async {
            let request = hospital.request(Method::GET, "").header("traceparent", &sent);
            assert_eq!(request.send().await.unwrap().status(), 200);
        });
        join_all(asked).await;
        (counted(&server, "vitals_traces_limited_total").await > 0.0).then_some(())
    })
    .await;
    // A caller who is not let in asks for nothing.
    let request = server.client().get(server.url("/api/v1")).header("traceparent", &sent);
    assert_eq!(request.send().await.unwrap().status(), 401);
    let asked = collector.named(TRACE, "GET /api/v1", 1).await;
    assert!(asked.iter().all(|step| step.says("http.response.status_code") == Some("200")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_about_a_request_name_its_trace_with_and_without_a_collector() {
    let database = Database::new().await;
    let json = ["--log-format", "json", "--log", "info,vitals=debug"];
    let server = Server::start_with(&database, &json).await;
    let hospital = Hospital::new(&server, "ward");
    let not = format!("00-{TRACE}-{PARENT}-00");
    post(&hospital, &heart_rate(PATIENT, 80.0, now()), &[("traceparent", &not)]).await;
    let logged = server.logged();
    let lines = logged.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let (of_trace, others): (Vec<Value>, Vec<Value>) =
        lines.partition(|line| line["trace_id"] == TRACE);
    assert_eq!(of_trace.len(), 1, "{logged}");
    assert_eq!(of_trace[0]["span_id"], PARENT);
    assert_eq!(of_trace[0]["fields"]["route"], "/api/v1/readings");
    assert!(!others.is_empty() && others.iter().all(|line| line.get("trace_id").is_none()));
}
