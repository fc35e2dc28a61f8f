//! The embedded PostgreSQL while it is used: killed, out of room, and never back.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::cluster::Cluster;
use crate::support::disk::{Dir, Disk};
use crate::support::eventually;
use crate::support::server::Server;

const SOON: Duration = Duration::from_secs(90);

/// What `/health/ready` says: its status, its code, and why.
async fn readiness(server: &Server) -> (u16, String, String) {
    let answer = reqwest::get(server.url("/health/ready")).await.expect("it answers");
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    (status, text("code"), text("detail"))
}

async fn is_ready(server: &Server) {
    eventually("readiness", SOON, async || (readiness(server).await.0 == 200).then_some(())).await;
}

/// Sends one reading; whether it was acknowledged.
async fn store(hospital: &Hospital, patient: &str) -> bool {
    let reading = heart_rate(patient, 80.0, now());
    let request = hospital.request(reqwest::Method::POST, "/readings").json(&reading);
    let answer = request.timeout(Duration::from_secs(40)).send().await;
    answer.is_ok_and(|answer| answer.status() == 201)
}

async fn stored(hospital: &Hospital, patient: &str) -> usize {
    let path = format!("/patients/{patient}/readings?limit=10000");
    hospital.found(&path).await["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_killed_embedded_database_is_started_again_by_the_process_that_uses_it() {
    let dir = Dir::new("supervised");
    let server = Server::start_in(dir.path(), None, &[]).await;
    let hospital = Hospital::new(&server, "ward");
    let cluster = Cluster::of(dir.path());
    for n in 1..=3 {
        // Each shard's writer may have kept a connection to the server before, and then one of
        // its senders is told to come again.
        eventually("a reading to be stored", SOON, async || {
            store(&hospital, "p").await.then_some(())
        })
        .await;
        let before = cluster.postmaster();
        cluster.signal(Signal::KILL);
        eventually("another server", SOON, async || (cluster.postmaster() != before).then_some(()))
            .await;
        is_ready(&server).await;
        eventually("a reading to be stored", SOON, async || {
            store(&hospital, "q").await.then_some(())
        })
        .await;
        assert!(stored(&hospital, "p").await >= n, "what was acknowledged is there");
    }
    let said = server.logged();
    assert!(said.contains("the embedded database is away"), "{said}");
    assert!(said.contains("killed by signal 9") && said.contains("is back after"), "{said}");
    let (status, _) = server.terminate().await;
    assert!(status.success());
    drop(cluster);
}

#[tokio::test]
async fn an_embedded_database_that_does_not_come_back_ends_the_process() {
    let dir = Dir::new("lost");
    let mut server = Server::start_in(dir.path(), None, &["--database-away", "6s"]).await;
    let conf = dir.path().join("postgres/data/postgresql.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, text + "\nshared_buffers = 'rather many'\n").unwrap();
    Cluster::of(dir.path()).signal(Signal::KILL);
    eventually("readiness to say so", SOON, async || {
        let (status, code, detail) = readiness(&server).await;
        (status == 503 && code == "database_away" && detail.contains("does not start"))
            .then_some(())
    })
    .await;
    let live = reqwest::get(server.url("/health/live")).await.unwrap();
    assert_eq!(live.status(), 200, "it lives and tries");
    let status = tokio::time::timeout(SOON, server.ended()).await.expect("an end");
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    let said = server.logged();
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains("did not come back within 6 s"), "{said}");
    assert!(last.contains("contains errors"), "{said}");
}

#[tokio::test]
async fn a_full_disk_that_is_freed_again_loses_nothing_and_needs_nobody() {
    let Some(disk) = Disk::mount(160) else {
        return;
    };
    // What it logs goes to the same disk, and must not end it either.
    let server = Server::start_in(disk.path(), None, &["--database-away", "10m"]).await;
    let hospital = Hospital::new(&server, "ward");
    assert!(store(&hospital, "p").await);
    disk.fill();
    let cluster = Cluster::of(disk.path());
    // What it needs room for makes it end: a backend that was killed, or readings.
    let acknowledged = std::cell::Cell::new(1);
    cluster.signal(Signal::KILL);
    eventually("the full disk to be noticed", SOON, async || {
        acknowledged.set(acknowledged.get() + usize::from(store(&hospital, "p").await));
        let (status, code, detail) = readiness(&server).await;
        (status == 503 && code == "database_away" && detail.contains("make room")).then_some(())
    })
    .await;
    disk.free();
    is_ready(&server).await;
    eventually("a reading to be stored", SOON, async || store(&hospital, "q").await.then_some(()))
        .await;
    assert!(stored(&hospital, "p").await >= acknowledged.get());
    assert!(server.terminate().await.0.success());
}
