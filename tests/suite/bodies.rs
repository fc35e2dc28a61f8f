//! Bodies that come encoded: undone, bounded by what comes out, and refused with a
//! reason where they are not what they say.

use std::io::Write;

use async_compression::tokio::write::ZstdEncoder;
use async_compression::{Level, zstd::CParameter};
use chrono::{DateTime, TimeDelta, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::floods::memory_kb;
use crate::hospital::{Hospital, heart_rate};
use crate::support::postgres::Database;
use crate::support::server::Server;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
/// What a bomb may cost: the largest body twice over, as a buffer that grows needs,
/// a decoder, and some.
const MEMORY_KB_MAX: u64 = 64 * 1024;
const MEGABYTE: usize = 1 << 20;

fn reading(n: usize) -> Value {
    let start: DateTime<Utc> = "2025-10-20T10:20:00Z".parse().unwrap();
    heart_rate(&format!("p{}", n % 10), 80.0, start + TimeDelta::seconds(n as i64))
}

/// The same readings in both shapes.
fn body(kind: &str, numbers: std::ops::Range<usize>) -> Vec<u8> {
    let readings: Vec<Value> = numbers.map(reading).collect();
    match kind {
        JSON => json!(readings).to_string().into_bytes(),
        _ => readings.iter().map(|reading| format!("{reading}\n")).collect::<String>().into(),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn zstd_with(bytes: &[u8], parameters: &[CParameter]) -> Vec<u8> {
    let mut encoder = ZstdEncoder::with_quality_and_params(Vec::new(), Level::Fastest, parameters);
    encoder.write_all(bytes).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

async fn encode(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    match encoding {
        "gzip" => gzip(bytes),
        _ => zstd_with(bytes, &[]).await,
    }
}

async fn post(
    hospital: &Hospital,
    kind: &str,
    encodings: &[&str],
    body: Vec<u8>,
) -> (u16, HeaderMap, Value) {
    let request = hospital.request(Method::POST, "/readings").header("content-type", kind);
    let request =
        encodings.iter().fold(request, |request, e| request.header("content-encoding", *e));
    let answer = request.body(body).send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    (status, headers, answer.json().await.unwrap())
}

#[tokio::test]
async fn json_and_lines_come_in_gzip_and_zstd_in_one_piece_or_more() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    let mut expected = 0;
    for kind in [JSON, NDJSON] {
        for encoding in ["gzip", "zstd"] {
            let plain = body(kind, expected..expected + 3_000);
            expected += 3_000;
            // Two members or frames are one body.
            let (first, second) = plain.split_at(plain.len() / 3);
            let pieces = [encode(encoding, first).await, encode(encoding, second).await].concat();
            let whole = encode(encoding, &plain).await;
            for (encoded, counts) in [(pieces, (3_000, 0)), (whole, (0, 3_000))] {
                let (status, _, answer) = post(&hospital, kind, &[encoding], encoded).await;
                assert_eq!(status, 201, "{kind} {encoding}: {answer}");
                let found = (&answer["stored"], &answer["duplicates"]);
                assert_eq!(found, (&json!(counts.0), &json!(counts.1)), "{kind} {encoding}");
            }
        }
    }
    let (status, ..) = post(&hospital, JSON, &["X-GZIP"], gzip(&body(JSON, 0..1))).await;
    assert_eq!(status, 201);
}

#[tokio::test]
async fn other_encodings_and_several_in_a_row_are_refused_with_those_that_are_not() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    let refused: [&[&str]; 6] =
        [&["br"], &["deflate"], &["gzip, gzip"], &["gzip, zstd"], &["gzip", "zstd"], &["gz"]];
    for kind in [JSON, NDJSON] {
        for encodings in refused {
            let (status, headers, problem) =
                post(&hospital, kind, encodings, body(kind, 0..10)).await;
            assert_eq!(status, 415, "{encodings:?}: {problem}");
            assert_eq!(problem["code"], "encoding_not_supported");
            assert_eq!(headers["accept-encoding"], "gzip, zstd");
        }
        for encodings in [&["identity"][..], &[""], &["identity, identity"]] {
            let (status, _, answer) = post(&hospital, kind, encodings, body(kind, 0..10)).await;
            assert_eq!(status, 201, "{encodings:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_its_encoding_says_is_not_read() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    for kind in [JSON, NDJSON] {
        let plain = body(kind, 0..10);
        let mut wrong_sum = gzip(&plain);
        let sum = wrong_sum.len() - 8;
        wrong_sum[sum] ^= 1;
        let wide = [CParameter::window_log(27), CParameter::content_size_flag(false)];
        let cases = [
            ("gzip", plain.clone()),
            ("zstd", plain.clone()),
            ("gzip", Vec::new()),
            ("gzip", wrong_sum),
            ("gzip", [gzip(&plain), b"and more".to_vec()].concat()),
            ("gzip", gzip(&plain)[..60].to_vec()),
            ("zstd", encode("zstd", &plain).await[..60].to_vec()),
            // It would cost 128 MiB to undo.
            ("zstd", zstd_with(&plain, &wide).await),
        ];
        for (i, (encoding, encoded)) in cases.into_iter().enumerate() {
            let (status, _, problem) = post(&hospital, kind, &[encoding], encoded).await;
            assert_eq!(status, 400, "{kind} {i}: {problem}");
            assert_eq!(problem["code"], "unreadable_encoding", "{kind} {i}: {problem}");
            if kind == NDJSON {
                assert_eq!((&problem["stored"], &problem["duplicates"]), (&json!(0), &json!(0)));
            }
        }
    }
    let events: i64 =
        sqlx::query_scalar("select count(*) from event").fetch_one(&database.pool()).await.unwrap();
    assert_eq!(events, 0);
}

#[tokio::test]
async fn of_a_broken_stream_it_is_said_what_was_stored() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    for encoding in ["gzip", "zstd"] {
        let encoded = encode(encoding, &body(NDJSON, 0..30_000)).await;
        let half = encoded[..encoded.len() / 2].to_vec();
        let (status, _, problem) = post(&hospital, NDJSON, &[encoding], half).await;
        assert_eq!((status, &problem["code"]), (400, &json!("unreadable_encoding")), "{problem}");
        let known = problem["stored"].as_i64().unwrap() + problem["duplicates"].as_i64().unwrap();
        assert!(known >= 2_000, "{problem}");
        let events: i64 = sqlx::query_scalar("select count(*) from event")
            .fetch_one(&database.pool())
            .await
            .unwrap();
        assert!(known == events || encoding == "zstd" && known <= events, "{events}: {problem}");
    }
}

/// What a few kilobytes of zeros, or rather of spaces, become.
async fn bomb(encoding: &str, bytes: usize) -> Vec<u8> {
    let part = 16 * MEGABYTE;
    encode(encoding, &b" ".repeat(part)).await.repeat(bytes / part)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bomb_is_refused_by_what_comes_out_of_it() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    hospital.measure("101", 80.0).await;
    let before = memory_kb(&server, "VmRSS:");
    for encoding in ["gzip", "zstd"] {
        let gigabyte = bomb(encoding, 1024 * MEGABYTE).await;
        assert!(gigabyte.len() < 8 * MEGABYTE, "{encoding}: {}", gigabyte.len());
        let (status, _, problem) = post(&hospital, JSON, &[encoding], gigabyte).await;
        assert_eq!((status, &problem["code"]), (413, &json!("body_too_large")), "{problem}");
        // As a stream it is one endless line, read to its end in passing.
        let line = bomb(encoding, 128 * MEGABYTE).await;
        let last = encode(encoding, b"x\n").await;
        let (status, _, problem) =
            post(&hospital, NDJSON, &[encoding], [line, last].concat()).await;
        assert_eq!((status, &problem["code"]), (422, &json!("line_too_long")), "{problem}");
    }
    let most = memory_kb(&server, "VmHWM:");
    assert!(most < before + MEMORY_KB_MAX, "from {before} kB to {most} kB");
    hospital.measure("101", 81.0).await;
}
