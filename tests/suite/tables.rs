//! A history as buckets, as points of a chart, and as one table.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use reqwest::Method;
use serde_json::{Value, json};
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::Database;
use crate::support::server::Server;

const READINGS: i64 = 12_345;

fn at(start: DateTime<Utc>, n: i64) -> DateTime<Utc> {
    // Not at whole seconds, and two devices at some instants.
    start + TimeDelta::milliseconds(n / 2 * 700)
}

fn value(n: i64) -> f64 {
    70.0 + f64::from((n * 7919 % 400) as i32) / 10.0
}

/// More than one page of a patient.
async fn filled(hospital: &Hospital) -> DateTime<Utc> {
    let start = now() - TimeDelta::hours(6);
    let all: Vec<i64> = (0..READINGS).collect();
    for part in all.chunks(5_000) {
        let batch: Vec<Value> = part
            .iter()
            .map(|n| {
                let mut reading = heart_rate("101", value(*n), at(start, *n));
                reading["deviceId"] = format!("watch-{}", n % 2).into();
                reading
            })
            .collect();
        hospital.store(&batch).await;
    }
    start
}

async fn fetch(hospital: &Hospital, path: &str, accept: &str) -> (u16, String, Bytes) {
    let request = hospital.request(Method::GET, path).header("accept", accept);
    let answer = request.send().await.unwrap();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (answer.status().as_u16(), kind, answer.bytes().await.unwrap())
}

/// Every reading, by the pages of the list.
async fn listed(hospital: &Hospital, query: &str) -> Vec<Value> {
    let mut path = format!("/patients/101/readings?limit=10000{query}");
    let mut items = Vec::new();
    loop {
        let page = hospital.found(&path).await;
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { return items };
        path = format!("/patients/101/readings?limit=10000{query}&cursor={next}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_has_every_reading_of_the_list_in_its_order() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let start = filled(&hospital).await;
    let all = listed(&hospital, "").await;
    assert_eq!(all.len() as i64, READINGS);

    let path = "/patients/101/readings";
    let (status, kind, body) = fetch(&hospital, path, "application/x-ndjson").await;
    assert_eq!((status, &*kind), (200, "application/x-ndjson"));
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(lines, all);

    let (status, kind, body) = fetch(&hospital, path, "text/csv").await;
    assert_eq!((status, &*kind), (200, "text/csv"));
    let text = std::str::from_utf8(&body).unwrap();
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap().split(',').collect();
    for (line, item) in lines.by_ref().zip(&all) {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells.len(), head.len(), "{line}");
        for (key, cell) in head.iter().zip(cells) {
            let expected = match &item[key] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(cell, expected, "{key} of {line}");
        }
    }
    assert_eq!(text.lines().count() as i64, READINGS + 1);

    let (status, kind, body) = fetch(&hospital, path, "application/vnd.apache.parquet").await;
    assert_eq!((status, &*kind), (200, "application/vnd.apache.parquet"));
    let file = SerializedFileReader::new(body).unwrap();
    assert_eq!(file.metadata().file_metadata().num_rows(), READINGS);
    for (row, item) in file.get_row_iter(None).unwrap().zip(&all) {
        let row = row.unwrap();
        let text = |n| row.get_string(n).unwrap().clone();
        let time = |n| {
            let micros = row.get_timestamp_micros(n).unwrap();
            rfc3339(DateTime::from_timestamp_micros(micros).unwrap())
        };
        let read = json!({
            "patientId": text(0), "deviceId": text(1), "vital": text(2),
            "value": vitals::event::number(row.get_double(3).unwrap()), "unit": text(4),
            "quality": text(5), "measuredAt": time(6), "recordedAt": time(7),
        });
        assert_eq!(&read, item);
    }

    // A part of it, and what is not there.
    let (from, to) = (rfc3339(at(start, 100)), rfc3339(at(start, 200)));
    let part = format!("{path}?from={from}&to={to}&vital=heart_rate");
    let (_, _, body) = fetch(&hospital, &part, "text/csv").await;
    assert_eq!(std::str::from_utf8(&body).unwrap().lines().count(), 101);
    let (_, _, body) = fetch(&hospital, &format!("{path}?vital=spo2"), "text/csv").await;
    assert_eq!(std::str::from_utf8(&body).unwrap().lines().count(), 1);
    let none = format!("{path}?vital=spo2");
    let (_, _, body) = fetch(&hospital, &none, "application/vnd.apache.parquet").await;
    let file = SerializedFileReader::new(body).unwrap();
    assert_eq!(file.metadata().file_metadata().num_rows(), 0);
    for (path, accept, expect, code) in [
        ("/patients/nobody/readings", "text/csv", 404, "not_found"),
        ("/patients/101/readings", "image/png", 406, "not_acceptable"),
        ("/patients/101/readings?limit=5", "text/csv", 400, "whole_table"),
        ("/patients/101/readings?vital=spo2&every=1m", "text/csv", 400, "whole_table"),
        ("/patients/101/readings?cursor=x", "text/csv", 400, "invalid_cursor"),
    ] {
        let (status, kind, body) = fetch(&hospital, path, accept).await;
        let problem: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &problem["code"]), (expect, &json!(code)), "{path}");
        assert_eq!(kind, "application/problem+json");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chart_has_as_many_points_as_it_may_and_all_were_measured() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let start = filled(&hospital).await;
    // One spike that must be seen.
    hospital
        .store(&[heart_rate("101", 199.0, at(start, 5_000) + TimeDelta::milliseconds(1))])
        .await;
    let all = listed(&hospital, "&vital=heart_rate").await;
    let path = "/patients/101/readings?vital=heart_rate";
    for points in [3, 50, 500] {
        let chart = hospital.found(&format!("{path}&points={points}")).await;
        let items = chart["items"].as_array().unwrap();
        assert_eq!((items.len(), &chart["next"]), (points, &Value::Null));
        // A subsequence: nothing made up, nothing out of order.
        let mut rest = all.iter();
        assert!(items.iter().all(|item| rest.any(|other| other == item)));
        assert_eq!((items.first(), items.last()), (all.first(), all.last()));
        assert!(points < 10 || items.iter().any(|item| item["value"] == 199), "{points}");
    }
    // Fewer than it may have.
    let (from, to) = (rfc3339(at(start, 10)), rfc3339(at(start, 20)));
    let few = hospital.found(&format!("{path}&from={from}&to={to}&points=500")).await;
    assert_eq!(few["items"].as_array().unwrap().len(), 10);
    for (query, code) in [
        ("vital=heart_rate&points=2", "invalid_points"),
        ("vital=heart_rate&points=many", "invalid_query"),
        ("points=100", "vital_required"),
        ("vital=heart_rate&points=100&every=1m", "every_or_points"),
    ] {
        let (status, problem) = hospital.get(&format!("/patients/101/readings?{query}")).await;
        assert_eq!((status, &problem["code"]), (400, &json!(code)), "{query}");
    }
    let (status, _) = hospital.get("/patients/nobody/readings?vital=spo2&points=9").await;
    assert_eq!(status, 404);
}

/// Each goes in the middle of a page that PostgreSQL is sending, or of one that waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_in_the_middle_of_a_table_leaves_others_their_answers() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    filled(&hospital).await;
    let path = "/patients/101/readings?limit=50";
    let before = hospital.found(path).await;
    for round in 0..12 {
        let accept = ["text/csv", "application/x-ndjson"][round % 2];
        for path in ["/patients/101/readings", "/patients/101/replay?speed=max"] {
            let request = hospital.request(Method::GET, path).header("accept", accept);
            let mut answer = request.send().await.unwrap();
            assert!(answer.status().is_success());
            assert!(answer.chunk().await.unwrap().is_some());
        }
        assert_eq!(hospital.found(path).await, before, "after {round} who went away");
    }
    let (_, _, all) = fetch(&hospital, "/patients/101/readings", "text/csv").await;
    assert_eq!(all.iter().filter(|byte| **byte == b'\n').count() as i64, READINGS + 1);
}
