//! Streams under pressure: many listeners, several instances, and replays that are cut.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::hospital::{Hospital, heart_rate, now};
use crate::streams::{Events, Key, a_minute, key, send_some};
use crate::support::postgres::Database;
use crate::support::server::Server;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_resumed_on_another_instance_without_loss_or_repeat() {
    let database = Database::new().await;
    let servers = [Server::start(&database).await, Server::start(&database).await];
    let hospitals = servers.each_ref().map(|server| Hospital::new(server, "ward"));
    let path = "/stream?types=reading";
    let mut events = Events::open(&hospitals[0], path, None).await;
    let mut place = events.next().await.unwrap().id.expect("the place of the beginning");
    drop(events);
    // Each is written to; each is read from in turn.
    let senders: Vec<_> = hospitals
        .iter()
        .enumerate()
        .map(|(n, hospital)| tokio::spawn(send_some(hospital.clone(), n, 120)))
        .collect();
    let mut seen: Vec<Key> = Vec::new();
    for cut in 0..8 {
        let mut events = Events::open(&hospitals[cut % 2], path, Some(&place)).await;
        for _ in 0..15 + 11 * cut {
            let sent = events.event().await;
            place = sent.id.unwrap();
            seen.push(key(&sent.data.unwrap()));
        }
    }
    let mut acknowledged = HashSet::new();
    for sender in senders {
        acknowledged.extend(sender.await.unwrap());
    }
    let mut events = Events::open(&hospitals[1], path, Some(&place)).await;
    while seen.len() < acknowledged.len() {
        seen.push(key(&events.event().await.data.unwrap()));
    }
    let once: HashSet<Key> = seen.iter().cloned().collect();
    assert_eq!(once.len(), seen.len(), "some came twice");
    assert_eq!(once, acknowledged);
}

/// The server's resident memory.
fn resident_mb(server: &Server) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// A listener with as little of its own as can be: what came of the last reading, and how
/// many came.
async fn listen(address: String, token: String, expect: usize, open: Arc<AtomicUsize>) -> usize {
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request = format!(
        "GET /api/v1/stream?types=reading HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut part, mut seen, mut tail) = (vec![0; 4096], 0, Vec::new());
    let mut begun = false;
    while seen < expect {
        let length = timeout(SOON, stream.read(&mut part)).await.expect("a silent stream").unwrap();
        assert_ne!(length, 0, "the stream ended");
        tail.extend(&part[..length]);
        let text = String::from_utf8_lossy(&tail);
        // All ask at once: on a busy machine some are told to come again.
        if ["HTTP/1.1 429", "HTTP/1.1 503"].iter().any(|refused| text.starts_with(refused)) {
            stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            tail.clear();
            continue;
        }
        let whole = text.rfind("\n\n").map_or(0, |end| end + 2);
        if !begun && whole > 0 {
            // Where to begin is told at once.
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
            open.fetch_add(1, Ordering::Relaxed);
            begun = true;
        }
        seen += text[..whole].matches("event: reading\n").count();
        tail = text[whole..].as_bytes().to_vec();
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_listeners_hear_every_reading_and_cost_little_memory() {
    const LISTENERS: usize = 1_000;
    const READINGS: usize = 60;
    const LISTENER_KB_MAX: f64 = 200.0;
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    hospital.measure("before", 80.0).await;
    let alone = resident_mb(&server);
    // One subject alone may not have all of a tenant's.
    let tokens: Vec<String> = (0..4)
        .map(|n| {
            server.token_with(|claims| {
                claims["tenant"] = "ward".into();
                claims["sub"] = format!("screen-{n}").into();
                claims["scope"] = "vitals:read".into();
            })
        })
        .collect();
    let open = Arc::new(AtomicUsize::new(0));
    let mut listeners = JoinSet::new();
    for n in 0..LISTENERS {
        let (address, token) = (server.address().to_owned(), tokens[n % 4].clone());
        listeners.spawn(listen(address, token, READINGS, open.clone()));
    }
    crate::support::eventually("a thousand open streams", SOON, async || {
        (open.load(Ordering::Relaxed) == LISTENERS).then_some(())
    })
    .await;
    // One more is one too many for the tenant, and none for another one.
    let (status, body) = hospital.get("/stream").await;
    assert_eq!((status, &body["code"]), (429, &json!("too_many_streams")));
    assert_eq!(body["whose"], "tenant", "{body}");
    let other = Hospital::new(&server, "another");
    drop(Events::open(&other, "/stream", None).await);
    for n in 0..READINGS / 2 {
        let at = now();
        let batch = [0, 1].map(|i| {
            let mut reading = heart_rate(&format!("p{n}"), 80.0, at);
            reading["deviceId"] = format!("d{i}").into();
            reading
        });
        hospital.store(&batch).await;
    }
    let full = resident_mb(&server);
    while let Some(seen) = listeners.join_next().await {
        assert_eq!(seen.unwrap(), READINGS, "some came twice");
    }
    let each_kb = (full - alone) * 1024.0 / LISTENERS as f64;
    println!("{alone:.0} MB alone, {full:.0} MB with {LISTENERS} listeners: {each_kb:.0} kB each");
    assert!(each_kb < LISTENER_KB_MAX, "{alone:.0} MB alone, {full:.0} MB with {LISTENERS}");
}

/// Events of a replay up to its end, cut off after every few.
async fn replayed_in_parts(hospital: &Hospital, query: &str, part: usize) -> Vec<Value> {
    let path = format!("/patients/p/replay?{query}");
    let (mut all, mut place) = (Vec::new(), None::<String>);
    loop {
        let mut events = Events::open(hospital, &path, place.as_deref()).await;
        for _ in 0..part {
            let sent = events.event().await;
            if sent.event.as_deref() == Some("end") {
                return all;
            }
            place = sent.id;
            all.push(sent.data.unwrap());
        }
    }
}

#[tokio::test]
async fn a_replay_that_is_cut_again_and_again_is_resumed_without_loss_or_repeat() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let sent = a_minute(&hospital).await;
    // Its alerts are among it; at some instants several things happened.
    let whole = replayed_in_parts(&hospital, "speed=max", 10_000).await;
    assert_eq!(whole.len(), sent.len() + 3);
    for part in [1, 2, 7] {
        assert_eq!(replayed_in_parts(&hospital, "speed=max", part).await, whole, "by {part}");
    }
    assert_eq!(replayed_in_parts(&hospital, "speed=1000", 5).await, whole);
    // Resumed, it keeps to its range.
    let from = whole[20]["measuredAt"].as_str().unwrap();
    let range = format!("speed=max&from={from}");
    let part = replayed_in_parts(&hospital, &range, 10_000).await;
    assert_eq!(part, whole[whole.len() - part.len()..]);
    for bad in ["1", "x-y", "1-", "-5-1", "99999999999999999999-1", "1700000000000000-x"] {
        let answer = hospital
            .request(Method::GET, "/patients/p/replay?speed=max")
            .header("last-event-id", bad)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 400, "{bad}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["code"], "invalid_last_event_id", "{bad}");
    }
}
