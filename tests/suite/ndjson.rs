//! Streams of readings: what is stored of them, in which order, and what is said when
//! they end in another way than their sender meant.

use std::fmt::Write;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::time::{Instant, interval};

use crate::floods::memory_kb;
use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::upload::Upload;

const SOON: Duration = Duration::from_secs(60);
/// Lines of a chunk, as the documentation has it.
const CHUNK: usize = 2_000;
/// Above what a stream costs: two chunks, a window of bytes, and what the allocator
/// keeps. Far below what was sent.
const MEMORY_KB_MAX: u64 = 32 * 1024;

fn second(second: usize) -> DateTime<Utc> {
    let start: DateTime<Utc> = "2025-10-20T10:20:00Z".parse().unwrap();
    start + TimeDelta::seconds(second as i64)
}

fn reading(n: usize) -> Value {
    heart_rate(&format!("p{}", n % 10), 80.0, second(n))
}

/// The readings of these numbers, each on a line.
pub fn lines(numbers: impl IntoIterator<Item = usize>) -> String {
    numbers.into_iter().fold(String::new(), |mut text, n| {
        writeln!(text, "{}", reading(n)).unwrap();
        text
    })
}

async fn stream(hospital: &Hospital, body: impl Into<Vec<u8>>) -> (u16, Value) {
    let request = hospital.request(Method::POST, "/readings").body(body.into());
    let answer = request.header("content-type", "application/x-ndjson").send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

pub fn counts(answer: &Value) -> (u64, u64) {
    let count = |key: &str| answer[key].as_u64().unwrap_or_else(|| panic!("{key}: {answer}"));
    (count("stored"), count("duplicates"))
}

/// The numbers of the readings in the log, in order.
pub async fn stored(pool: &PgPool) -> Vec<usize> {
    let sql = "select occurred_at from event where type = 'reading' order by occurred_at";
    let times: Vec<DateTime<Utc>> = sqlx::query_scalar(sql).fetch_all(pool).await.unwrap();
    times.into_iter().map(|at| (at - second(0)).num_seconds() as usize).collect()
}

#[tokio::test]
async fn a_line_is_judged_as_an_item_of_an_array_is() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    let with = |n: usize, key: &str, value: Value| {
        let mut reading = reading(n);
        reading[key] = value;
        reading
    };
    let items = [
        reading(0),
        with(1, "value", json!(900)),
        with(2, "patientId", json!("a b")),
        reading(3),
        json!({}),
        json!(7),
        with(4, "measuredAt", json!("2025-10-20")),
        with(5, "context", json!([])),
        with(6, "quality", json!(0.5)),
        with(7, "unit", json!("bpm")),
    ];
    let (status, as_array) = hospital.post("/readings", &json!(items)).await;
    assert_eq!((status, counts(&as_array)), (207, (3, 0)), "{as_array}");
    // Blank lines are none, line ends of both kinds are, and the last one needs none.
    let body = items.iter().map(Value::to_string).collect::<Vec<_>>().join("\r\n\n \r\n");
    let (status, as_lines) = stream(&hospital, body).await;
    assert_eq!((status, counts(&as_lines)), (207, (0, 3)), "{as_lines}");
    assert_eq!(as_lines["rejected"], as_array["rejected"]);
}

#[tokio::test]
async fn a_line_that_cannot_be_read_spares_its_neighbours() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    let bad: [(&[u8], &str); 5] = [
        (b"{\"patientId\":", "unreadable_json"),
        (b"{\"patientId\":\"\xff\"}", "not_utf8"),
        (b"{} {}", "unreadable_json"),
        (&b"x".repeat(64 * 1024 + 1), "line_too_long"),
        (&b"[".repeat(60_000), "unreadable_json"),
    ];
    let mut body = lines([0]).into_bytes();
    for (n, (line, _)) in bad.iter().enumerate() {
        body.extend([line, b"\n".as_slice(), lines([n + 1]).as_bytes()].concat());
    }
    let (status, answer) = stream(&hospital, body).await;
    assert_eq!((status, counts(&answer)), (207, (6, 0)), "{answer}");
    let rejected = answer["rejected"].as_array().unwrap();
    assert_eq!(rejected.len(), bad.len(), "{answer}");
    for (n, ((_, code), rejected)) in bad.iter().zip(rejected).enumerate() {
        let index = 2 * n + 1;
        assert_eq!((&rejected["index"], &rejected["code"]), (&json!(index), &json!(code)));
        assert_eq!(rejected["pointer"], format!("/{index}"));
        assert!(rejected["detail"].as_str().unwrap().len() > 10, "{rejected}");
    }
    assert_eq!(stored(&database.pool()).await, [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_stream_is_answered_as_an_array_is() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    for empty in ["", "\n", "\r\n \n\n"] {
        let (status, answer) = stream(&hospital, empty).await;
        assert_eq!((status, &answer["code"]), (400, &json!("empty_batch")), "{answer}");
    }
    let (status, answer) = stream(&hospital, "{}\n7\n").await;
    assert_eq!((status, &answer["code"]), (422, &json!("missing_field")), "{answer}");
    assert_eq!(answer["rejected"].as_array().unwrap().len(), 2);
    let (status, answer) = stream(&hospital, lines(0..3)).await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(answer, json!({ "stored": 3, "duplicates": 0, "rejected": [] }));

    let narrow = server.token_with(|claims| {
        claims["scope"] = "readings:write".into();
        claims["device"] = "watch-8".into();
    });
    let reader = server.token("vitals:read");
    for (kind, token, mine, expected) in [
        ("application/x-ndjson; charset=utf-8", &narrow, false, (403, "outside_token")),
        ("application/ndjson", &narrow, true, (207, "outside_token")),
        ("Application/X-NDJSON", &reader, true, (403, "scope_missing")),
        ("application/x-ndjson", &String::from("nobody"), true, (401, "unauthorised")),
    ] {
        let own = lines([5]).replace("watch-7", "watch-8");
        let body = if mine { lines([4]) + &own } else { lines([4]) };
        let request = server.client().post(server.url("/api/v1/readings")).bearer_auth(token);
        let answer = request.header("content-type", kind).body(body).send().await.unwrap();
        let status = answer.status().as_u16();
        let answer: Value = answer.json().await.unwrap();
        let code = answer.get("code").unwrap_or(&answer["rejected"][0]["code"]);
        assert_eq!((status, code), (expected.0, &json!(expected.1)), "{answer}");
    }
    assert_eq!(stored(&database.pool()).await, [0, 1, 2, 5]);
}

#[tokio::test]
async fn duplicates_are_counted_within_a_chunk_and_across_chunks() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    let twice = (0..CHUNK).flat_map(|n| [n, n]);
    let body = lines(twice.chain(0..2 * CHUNK + 500));
    let (status, answer) = stream(&hospital, body).await;
    let expected = (2 * CHUNK as u64 + 500, 2 * CHUNK as u64);
    assert_eq!((status, counts(&answer)), (201, expected), "{answer}");
    assert_eq!(stored(&database.pool()).await, Vec::from_iter(0..2 * CHUNK + 500));
}

#[tokio::test]
async fn many_rejected_lines_are_counted_and_the_first_are_told() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    let long = format!("{{\"unit\":\"{}\",", "u".repeat(10_000));
    let bad = lines([1]).replace("\"unit\":\"/min\",", "").replacen('{', &long, 1);
    let (status, answer) = stream(&hospital, bad.repeat(1_500) + &lines([0])).await;
    assert_eq!((status, counts(&answer)), (207, (1, 0)), "{answer}");
    assert_eq!(answer["rejectedTotal"], 1_500);
    let rejected = answer["rejected"].as_array().unwrap();
    assert_eq!((rejected.len(), &rejected[999]["index"]), (1_000, &json!(999)));
    assert_eq!(rejected[0]["code"], "unit_not_accepted");
    assert!(answer.to_string().len() < 600_000, "{}", answer.to_string().len());
}

/// The beginning, whole lines, and nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_leaves_the_beginning_and_sending_again_is_exact() {
    const ALL: usize = 20_000;
    let database = Database::new().await;
    let pool = database.pool();
    let mut least = 0;
    // Cut after everything sent was stored; then in full flow.
    for (sent, settle) in [(CHUNK + 300, true), (ALL - 1, false)] {
        let server = Server::start(&database).await;
        let mut upload = Upload::of_lines(&server).await;
        for from in (0..sent).step_by(500) {
            upload.send(lines(from..sent.min(from + 500))).await;
        }
        let unfinished = lines([sent]);
        // All of it but its end.
        upload.send(unfinished.trim_end()).await;
        if settle {
            eventually("the whole lines to be stored", SOON, async || {
                (stored(&pool).await.len() == sent).then_some(())
            })
            .await;
        }
        upload.cut();
        // Whatever was handed in is written by now.
        assert!(server.terminate().await.0.success());
        let kept = stored(&pool).await;
        assert_eq!(kept, Vec::from_iter(0..kept.len()), "a hole, or a line twice");
        assert!((least..=sent).contains(&kept.len()), "{} of {sent}", kept.len());
        assert!(!settle || kept.len() == sent, "the unfinished line is not stored");
        least = kept.len();
    }
    let server = Server::start(&database).await;
    let mut upload = Upload::of_lines(&server).await;
    for from in (0..ALL).step_by(500) {
        upload.send(lines(from..from + 500)).await;
    }
    let (status, answer) = upload.end().await;
    assert_eq!((status, counts(&answer)), (201, ((ALL - least) as u64, least as u64)));
    assert_eq!(stored(&pool).await, Vec::from_iter(0..ALL));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_lines_cost_no_memory() {
    const ALL: usize = 100_000;
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    // A chunk of everything, so that what is allocated once is allocated.
    assert_eq!(stream(&hospital, lines(ALL..ALL + 3 * CHUNK)).await.0, 201);
    let before = memory_kb(&server, "VmRSS:");
    let mut upload = Upload::of_lines(&server).await;
    let padding = format!("{{\"padding\":\"{}\",", "x".repeat(600));
    let mut bytes = 0;
    for from in (0..ALL).step_by(500) {
        let part = lines(from..from + 500).replace('{', &padding);
        bytes += part.len() as u64;
        upload.send(part).await;
    }
    let (status, answer) = upload.end().await;
    assert_eq!((status, counts(&answer)), (201, (ALL as u64, 0)), "{answer}");
    let most = memory_kb(&server, "VmHWM:");
    assert!(most < before + MEMORY_KB_MAX, "from {before} kB to {most} kB");
    assert!(bytes / 1024 > 2 * MEMORY_KB_MAX, "this shows nothing with {bytes} bytes");
}

#[tokio::test]
async fn what_comes_slowly_is_stored_as_it_comes() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    let mut upload = Upload::of_lines(&server).await;
    for n in 0..3 {
        let line = lines([n]);
        let (head, tail) = line.split_at(40);
        upload.send(head).await;
        upload.send(tail).await;
        let path = format!("/patients/p{n}/heart-rate");
        eventually("the line to be stored while the stream goes on", SOON, async || {
            (hospital.get(&path).await.0 == 200).then_some(())
        })
        .await;
    }
    let (status, answer) = upload.end().await;
    assert_eq!((status, counts(&answer)), (201, (3, 0)), "{answer}");
}

/// Longer than any other request may take; and a silent one beside it.
#[tokio::test]
async fn a_stream_may_last_and_may_not_fall_silent() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let lasting = async {
        let mut upload = Upload::of_lines(&server).await;
        let (started, mut beat) = (Instant::now(), interval(Duration::from_secs(1)));
        upload.send(lines([0])).await;
        while started.elapsed() < Duration::from_secs(32) {
            beat.tick().await;
            // A blank line keeps it awake and counts as nothing.
            upload.send("\n").await;
        }
        upload.send(lines([1])).await;
        upload.end().await
    };
    let silent = async {
        let mut upload = Upload::of_lines(&server).await;
        upload.send(lines([2, 3]) + "{").await;
        upload.answer().await
    };
    let ((lasted, kept), (fell_silent, problem)) = tokio::join!(lasting, silent);
    assert_eq!((lasted, counts(&kept)), (201, (2, 0)), "{kept}");
    assert_eq!((fell_silent, counts(&problem)), (408, (2, 0)), "{problem}");
    assert_eq!(problem["code"], "body_timeout");
    assert_eq!(stored(&database.pool()).await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_stopping_server_says_what_it_has_stored() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let pool = database.pool();
    let mut upload = Upload::of_lines(&server).await;
    upload.send(lines(0..CHUNK + 10)).await;
    upload.send("{").await;
    eventually("the lines to be stored", SOON, async || {
        (stored(&pool).await.len() == CHUNK + 10).then_some(())
    })
    .await;
    let ((ended, took), (status, problem)) = tokio::join!(server.terminate(), upload.answer());
    assert_eq!((status, counts(&problem)), (503, (CHUNK as u64 + 10, 0)), "{problem}");
    assert_eq!(problem["code"], "stopping");
    assert!(ended.success() && took < Duration::from_secs(10), "{ended} after {took:?}");
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_says_what_it_has_stored() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    let soon = now().timestamp() + 3;
    let token = server.token_with(|claims| {
        claims["scope"] = json!("readings:write");
        claims["exp"] = json!(soon);
    });
    let kind = "content-type: application/x-ndjson\r\n";
    let mut upload = Upload::begin_as(&server, &token, kind).await;
    upload.send(lines([0])).await;
    let path = "/patients/p0/heart-rate";
    eventually("the first line to be stored", SOON, async || {
        (hospital.get(path).await.0 == 200).then_some(())
    })
    .await;
    eventually("the token to expire", SOON, async || (now().timestamp() >= soon).then_some(()))
        .await;
    upload.send(lines([1])).await;
    let (status, problem) = upload.answer().await;
    assert_eq!((status, counts(&problem)), (401, (1, 0)), "{problem}");
    assert_eq!(problem["code"], "unauthorised");
    assert_eq!(stored(&database.pool()).await, [0]);
}

/// And the ones that are open are read on.
#[tokio::test]
async fn more_streams_than_may_be_open_are_told_to_come_again() {
    const OPEN: usize = 256;
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let pool = database.pool();
    let mut open = Vec::new();
    for n in 0..OPEN {
        // Of many who send: one alone may not have all of them.
        let token = server.token_with(|claims| {
            claims["tenant"] = format!("ward-{}", n % 4).into();
            claims["sub"] = format!("gateway-{}", n % 32).into();
            claims["scope"] = "readings:write".into();
        });
        let headers = "content-type: application/x-ndjson\r\n";
        let mut upload = Upload::begin_as(&server, &token, headers).await;
        upload.send(lines([n])).await;
        open.push(upload);
    }
    eventually("all streams to be read", SOON, async || {
        (stored(&pool).await.len() == OPEN).then_some(())
    })
    .await;
    let (status, problem) = Upload::of_lines(&server).await.answer().await;
    assert_eq!((status, &problem["code"]), (503, &json!("too_many_streams")), "{problem}");
    let last = open.pop().expect("an open one");
    let (status, answer) = last.end().await;
    assert_eq!((status, counts(&answer)), (201, (1, 0)), "{answer}");
    let (status, answer) = stream(&Hospital::new(&server, "hospital-1"), lines([OPEN])).await;
    assert_eq!((status, counts(&answer)), (201, (1, 0)), "{answer}");
}

#[tokio::test]
async fn a_stream_runs_at_the_speed_of_its_subjects_limit() {
    let database = Database::new().await;
    let server = Server::start_with(&database, &["--limit-readings", "600"]).await;
    let hospital = Hospital::new(&server, "hospital-1");
    let started = Instant::now();
    // A minute's worth at once and then ten a second; bad lines count as well.
    let (status, answer) = stream(&hospital, lines(0..580) + &"{}\n".repeat(70)).await;
    assert_eq!((status, counts(&answer)), (207, (580, 0)), "{answer}");
    assert!(started.elapsed() > Duration::from_secs(4), "{:?}", started.elapsed());
}
