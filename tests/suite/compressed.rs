//! Answers in fewer bytes, unpacked by code that nobody here wrote.

use std::process::Stdio;
use std::time::Duration;

use async_compression::tokio::bufread::{BrotliDecoder, ZstdDecoder};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, VARY};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::{Database, caught_up};
use crate::support::server::Server;

async fn unpacked(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let read = match encoding {
        "br" => BrotliDecoder::new(bytes).read_to_end(&mut plain).await,
        "zstd" => ZstdDecoder::new(bytes).read_to_end(&mut plain).await,
        _ => return by_gzip(bytes).await,
    };
    read.unwrap_or_else(|error| panic!("{encoding}: {error}"));
    plain
}

async fn by_gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .args(["-d", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip");
    let mut stdin = child.stdin.take().unwrap();
    let sending = async {
        let sent = stdin.write_all(bytes).await;
        drop(stdin);
        sent
    };
    let (sent, output) = tokio::join!(sending, child.wait_with_output());
    sent.unwrap();
    let output = output.unwrap();
    assert!(output.status.success(), "gzip could not read it");
    output.stdout
}

#[tokio::test]
async fn an_answer_is_the_same_once_it_is_unpacked() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let since = now() - chrono::TimeDelta::hours(2);
    let reading = |n: u32| {
        let at = since + chrono::TimeDelta::seconds(n.into());
        heart_rate("101", 70.0 + f64::from(n % 7), at)
    };
    let readings: Vec<Value> = (0..2_000).map(reading).collect();
    hospital.store(&readings).await;
    caught_up(&database.pool()).await;
    let ask = |path: &str, accept: &str, encoding: &str| {
        let request = hospital.request(reqwest::Method::GET, path).header(ACCEPT, accept);
        request.header(ACCEPT_ENCODING, encoding).send()
    };
    let page = "/patients/101/readings?limit=1000";
    for (path, accept) in [
        (page, "application/json"),
        ("/patients/101/readings", "text/csv"),
        ("/patients/101/readings", "application/x-ndjson"),
    ] {
        let plain = ask(path, accept, "identity").await.unwrap();
        assert_eq!(plain.headers().get(CONTENT_ENCODING), None);
        assert!(plain.headers().get_all(VARY).iter().any(|by| by == "accept-encoding"));
        let plain = plain.bytes().await.unwrap();
        for encoding in ["gzip", "br", "zstd"] {
            let packed = ask(path, accept, encoding).await.unwrap();
            assert_eq!(packed.headers()[CONTENT_ENCODING], encoding, "{accept}");
            let packed = packed.bytes().await.unwrap();
            assert!(packed.len() * 5 < plain.len(), "{encoding}: {} {}", packed.len(), plain.len());
            assert_eq!(unpacked(encoding, &packed).await, plain, "{accept} as {encoding}");
        }
    }
    // The tag is the answer's, however it is packed.
    let tag = ask(page, "application/json", "gzip").await.unwrap().headers()[ETAG].clone();
    let known = hospital.request(reqwest::Method::GET, page).header(IF_NONE_MATCH, tag);
    assert_eq!(known.send().await.unwrap().status(), 304);
    let small = ask("/patients/101/heart-rate", "application/json", "gzip").await.unwrap();
    assert_eq!(small.headers().get(CONTENT_ENCODING), None);
}

#[tokio::test]
async fn a_live_stream_is_sent_as_it_comes() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let stream = hospital.request(reqwest::Method::GET, "/stream").header(ACCEPT_ENCODING, "gzip");
    let mut stream = stream.send().await.unwrap();
    assert_eq!(stream.headers().get(CONTENT_ENCODING), None);
    hospital.measure("101", 71.0).await;
    let heard = async {
        let mut text = String::new();
        while !text.contains("\"deviceId\"") {
            text += &String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), heard).await.expect("it is not held back");
}
