//! Server-Sent Events: nothing lost, nothing twice, and the past as it was.

use std::collections::HashSet;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use futures_util::{Stream, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::{cli, eventually};

const SOON: Duration = Duration::from_secs(30);

/// What came between two empty lines.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sent {
    pub id: Option<String>,
    pub event: Option<String>,
    pub data: Option<Value>,
    pub comment: Option<String>,
}

/// An open stream, read by the rules of the HTML standard as far as they matter.
pub struct Events {
    bytes: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    unread: String,
}

impl Events {
    pub async fn open(hospital: &Hospital, path: &str, last_event_id: Option<&str>) -> Events {
        let mut request = hospital.request(Method::GET, path);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Events { bytes: Box::pin(answer.bytes_stream()), unread: String::new() }
    }

    /// The next block; `None` when the server ended the stream.
    pub async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let sent = read_block(block);
                self.unread = rest.to_owned();
                return Some(sent);
            }
            let bytes = timeout(SOON, self.bytes.next()).await.expect("a silent stream")?.unwrap();
            // The program writes ASCII here; a cut character would show at once.
            self.unread.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    /// The next block that carries an event; signs of life do not count.
    pub async fn event(&mut self) -> Sent {
        let next = async {
            loop {
                let sent = self.next().await.expect("the stream ended");
                if sent.data.is_some() {
                    return sent;
                }
            }
        };
        timeout(SOON, next).await.expect("an event that never came")
    }
}

fn read_block(block: &str) -> Sent {
    let mut sent = Sent::default();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => sent.comment = Some(value.to_owned()),
            "id" => sent.id = Some(value.to_owned()),
            "event" => sent.event = Some(value.to_owned()),
            "data" => sent.data = Some(serde_json::from_str(value).unwrap()),
            _ => panic!("a line of no known field: {line}"),
        }
    }
    sent
}

/// What makes a reading itself.
pub type Key = (String, String, String);

pub fn key(reading: &Value) -> Key {
    let text = |name: &str| reading[name].as_str().unwrap().to_owned();
    let at: chrono::DateTime<chrono::Utc> = text("measuredAt").parse().unwrap();
    // With the device: two may measure one patient in the same microsecond.
    (text("patientId"), format!("{} {}", text("vital"), text("deviceId")), rfc3339(at))
}

/// Sends singles and batches for a number of patients; what was acknowledged.
pub async fn send_some(hospital: Hospital, sender: usize, requests: usize) -> Vec<Key> {
    let mut acknowledged = Vec::new();
    for n in 0..requests {
        let at = now();
        let batch: Vec<Value> = (0..1 + n % 7 * (n % 3))
            .map(|i| {
                let patient = format!("p{}", (sender * 5 + n + i) % 12);
                let mut reading =
                    heart_rate(&patient, 80.0, at - TimeDelta::microseconds(i as i64));
                reading["deviceId"] = format!("d{sender}").into();
                reading["vital"] =
                    if n % 2 == 0 { "heart_rate" } else { "respiratory_rate" }.into();
                reading["value"] = 40.into();
                reading
            })
            .collect();
        hospital.store(&batch).await;
        acknowledged.extend(batch.iter().map(key));
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_cut_again_and_again_is_resumed_without_loss_or_repeat() {
    const CUTS: usize = 9;
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    // Where to begin is said before anything has happened.
    let mut events = Events::open(&hospital, "/stream?types=reading", None).await;
    let mut place = events.next().await.unwrap().id.expect("the place of the beginning");
    drop(events);

    let senders: Vec<_> =
        (0..3).map(|n| tokio::spawn(send_some(hospital.clone(), n, 220))).collect();
    let mut seen: Vec<Key> = Vec::new();
    for cut in 0..CUTS {
        let mut events = Events::open(&hospital, "/stream?types=reading", Some(&place)).await;
        for _ in 0..20 + 17 * cut {
            let sent = events.event().await;
            place = sent.id.unwrap();
            seen.push(key(&sent.data.unwrap()));
        }
    }
    let mut acknowledged = HashSet::new();
    for sender in senders {
        acknowledged.extend(sender.await.unwrap());
    }
    let mut events = Events::open(&hospital, "/stream?types=reading", Some(&place)).await;
    while seen.len() < acknowledged.len() {
        seen.push(key(&events.event().await.data.unwrap()));
    }
    // One more, to see that nothing came in between.
    hospital.measure("last", 60.0).await;
    assert_eq!(key(&events.event().await.data.unwrap()).0, "last");

    let once: HashSet<Key> = seen.iter().cloned().collect();
    assert_eq!(once.len(), seen.len(), "some came twice");
    assert_eq!(once, acknowledged);
}

#[tokio::test]
async fn what_is_acknowledged_after_the_answer_began_is_on_the_stream() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    for n in 0..20 {
        let mut events = Events::open(&hospital, "/stream?types=reading", None).await;
        let at = hospital.measure("p", 60.0).await;
        let next = timeout(Duration::from_secs(5), events.event()).await;
        let next = next.unwrap_or_else(|_| panic!("try {n}: a reading was lost"));
        assert_eq!(key(&next.data.unwrap()).2, rfc3339(at));
    }
}

#[tokio::test]
async fn types_choose_what_comes_and_other_tenants_see_nothing() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (ours, theirs) = (Hospital::new(&server, "ours"), Hospital::new(&server, "theirs"));
    let all = ours.found("/alerts").await;
    assert_eq!(all["items"], json!([]));
    // In each shard.
    let log = database.log().await;
    let zeros = vec!["0"; log.shards().count()].join("-");
    let beginning = format!("{}.{zeros}", log.incarnations().number());
    let mut streams = Vec::new();
    for (hospital, types) in
        [(&ours, "alert"), (&ours, "reading"), (&ours, "alert,reading"), (&theirs, "alert,reading")]
    {
        let path = format!("/stream?types={types}");
        streams.push(Events::open(hospital, &path, Some(&beginning)).await);
    }
    ours.measure("p", 130.0).await;
    eventually("the alert", SOON, || async {
        let alerts = ours.found("/alerts?state=active").await;
        (alerts["items"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    ours.measure("p", 90.0).await;
    theirs.measure("p", 60.0).await;

    let mut names = Vec::new();
    for (stream, expect) in streams.iter_mut().zip([2, 2, 4, 1]) {
        let mut of_stream = Vec::new();
        for _ in 0..expect {
            let sent = stream.event().await;
            let data = sent.data.unwrap();
            let what =
                data["state"].as_str().map_or_else(|| data["value"].to_string(), str::to_owned);
            of_stream.push(format!("{} {what}", sent.event.unwrap()));
        }
        names.push(of_stream);
    }
    assert_eq!(names[0], ["alert raised", "alert cleared"]);
    assert_eq!(names[1], ["reading 130", "reading 90"]);
    names[2].sort();
    assert_eq!(names[2], ["alert cleared", "alert raised", "reading 130", "reading 90"]);
    assert_eq!(names[3], ["reading 60"]);
    let (status, body) = ours.get("/stream?types=gossip").await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid_types")));
}

#[tokio::test]
async fn a_silent_stream_gives_signs_of_life() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let mut events = Events::open(&hospital, "/stream?types=alert", None).await;
    events.next().await.unwrap();
    let started = Instant::now();
    let sign = events.next().await.unwrap();
    assert!(sign.comment.is_some() && sign.data.is_none(), "{sign:?}");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test]
async fn streams_end_with_their_token_and_go_on_with_another() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    // The second one is due in an hour.
    let past = [now() - TimeDelta::hours(2), now() - TimeDelta::hours(1)];
    hospital.store(&past.map(|at| heart_rate("p", 60.0, at))).await;
    let soon = now().timestamp() + 8;
    let short = hospital.with_token(server.token_with(|claims| {
        (claims["tenant"], claims["scope"]) = (json!("ward"), json!("vitals:read"));
        claims["exp"] = json!(soon);
    }));
    let path = "/stream?types=reading";
    let mut live = Events::open(&short, path, None).await;
    let place = live.next().await.unwrap().id.expect("the place of the beginning");
    let mut replay = Events::open(&short, "/patients/p/replay", None).await;
    assert!(replay.event().await.data.is_some());

    eventually("the token to expire", SOON, async || (now().timestamp() >= soon).then_some(()))
        .await;
    hospital.measure("p", 61.0).await;
    for stream in [&mut live, &mut replay] {
        // Signs of life from before may be on their way still.
        while let Some(sent) = stream.next().await {
            assert_eq!(sent.data, None, "to a token that has expired");
        }
    }
    let again = short.request(Method::GET, path).send().await.unwrap();
    assert_eq!(again.status(), 401);
    let mut live = Events::open(&hospital, path, Some(&place)).await;
    assert_eq!(live.event().await.data.unwrap()["value"], 61);
}

#[tokio::test]
async fn others_being_busy_is_no_reason_for_silence() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let mut events = Events::open(&hospital, "/stream?types=alert", None).await;
    let beginning = events.next().await.unwrap().id.unwrap();
    let started = Instant::now();
    let busy = async {
        loop {
            hospital.measure("p", 60.0).await;
        }
    };
    let sign = tokio::select! {
        sign = events.next() => sign.unwrap(),
        () = busy => unreachable!("it has no end"),
    };
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert!(sign.data.is_none(), "{sign:?}");
    // It moves the place, so that whoever sees little of much need not read it again.
    let moved = sign.id.expect("a place");
    assert_ne!(moved, beginning);
    hospital.measure("q", 130.0).await;
    let mut resumed = Events::open(&hospital, "/stream?types=alert", Some(&moved)).await;
    assert_eq!(resumed.event().await.data.unwrap()["patientId"], "q");
}

/// A minute of a patient, a reading a second, with two episodes above the limit,
/// and readings of another device at some of the same instants.
pub async fn a_minute(hospital: &Hospital) -> Vec<Key> {
    let start = now() - TimeDelta::seconds(60);
    let mut minute = Vec::new();
    for n in 0..60 {
        let value = if (20..25).contains(&n) || n > 50 { 140.0 } else { 70.0 + n as f64 / 2.0 };
        let at = start + TimeDelta::seconds(n);
        minute.push(heart_rate("p", value, at));
        if n % 10 == 3 {
            let mut other = heart_rate("p", 97.0, at);
            other["vital"] = "spo2".into();
            other["unit"] = "%".into();
            other["deviceId"] = "clip".into();
            minute.push(other);
        }
    }
    hospital.store(&minute).await;
    eventually("both alerts", SOON, || async {
        let alerts = hospital.found("/alerts?patientId=p").await;
        (alerts["items"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    minute.iter().map(key).collect()
}

/// All of a replay up to its end.
async fn replayed(hospital: &Hospital, query: &str) -> Vec<Value> {
    let path = format!("/patients/p/replay?{query}");
    let mut events = Events::open(hospital, &path, None).await;
    let mut all = Vec::new();
    loop {
        let sent = events.event().await;
        if sent.event.as_deref() == Some("end") {
            assert_eq!(events.next().await, None);
            return all;
        }
        all.push(sent.data.unwrap());
    }
}

fn measured_at(event: &Value) -> chrono::DateTime<chrono::Utc> {
    event["measuredAt"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_replay_at_full_speed_is_what_the_command_prints_and_all_that_was_sent() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let sent = a_minute(&hospital).await;
    let replay = replayed(&hospital, "speed=max").await;
    assert!(replay.windows(2).all(|w| measured_at(&w[0]) <= measured_at(&w[1])));
    let readings: Vec<Key> = replay.iter().filter(|e| e["type"] == "reading").map(key).collect();
    assert_eq!(readings, sent);
    let states: Vec<&str> = replay.iter().filter_map(|e| e["state"].as_str()).collect();
    assert_eq!(states, ["raised", "cleared", "raised"]);

    let printed = cli(&database, &["replay", "--patient", "p", "--tenant", "ward"]).await;
    assert!(printed.status.success(), "{printed:?}");
    let printed: Vec<Value> = String::from_utf8(printed.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(printed, replay);

    // A part of it: from is included, to is not.
    let (from, to) = (measured_at(&replay[10]), measured_at(&replay[40]));
    let range = format!("speed=max&from={}&to={}", rfc3339(from), rfc3339(to));
    let part = replayed(&hospital, &range).await;
    let inside = |e: &&Value| (from..to).contains(&measured_at(e));
    assert_eq!(part, replay.iter().filter(inside).cloned().collect::<Vec<_>>());
    assert!(part.len() > 25 && part.len() < replay.len());
}

#[tokio::test]
async fn a_replay_takes_its_time_divided_by_its_speed() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    a_minute(&hospital).await;
    for (speed, at_least_ms) in [("600", 98), ("30", 1_960)] {
        let started = Instant::now();
        replayed(&hospital, &format!("speed={speed}")).await;
        let (took, least) = (started.elapsed(), Duration::from_millis(at_least_ms));
        // 59 s were recorded; a busy machine may add, never take away.
        assert!(took >= least && took < Duration::from_secs(20), "{speed}: {took:?}");
    }
    let (status, body) = hospital.get("/patients/p/replay?speed=-1").await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid_speed")));
    let (status, _) = hospital.get("/patients/nobody/replay?speed=max").await;
    assert_eq!(status, 404);
}
