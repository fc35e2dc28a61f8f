//! What it costs to be on record: `cargo bench --bench audit`.
//!
//! Two servers on a database of their own each, one that records every read and one that
//! records none, are asked in turns on the real binary with durability on: the newest heart
//! rate, a patient's state, a page of history.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a bench may fail loudly"
)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use support::{Client, Latencies, Readings, Server, token};

/// Turns of each, and reads of a turn.
const TURNS: usize = 30;
const READS: usize = 300;
/// Reads are paced, as many clients' together: nothing queues.
const PAUSE: Duration = Duration::from_micros(500);

struct Side {
    server: Server,
    client: Client,
}

impl Side {
    async fn start(name: &str, reads: &str) -> Side {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-audit-{name}"));
        let server = Server::start(&dir, &["--audit-reads", reads]).await;
        let token = token(&dir, "bench").await;
        let mut client = Client::connect(&server.address, &token).await;
        let readings = Readings::default();
        for _ in 0..20 {
            assert_eq!(client.post("/api/v1/readings", &readings.body(500, 80.0)).await, 201);
        }
        Side { server, client }
    }

    async fn read(&mut self, path: &str, n: usize, found: &mut Vec<f64>) {
        for n in n..n + READS {
            let path = path.replace("{}", &format!("p{}", n % 500));
            let sent = Instant::now();
            assert_eq!(self.client.get(&path).await, 200);
            found.push(sent.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[tokio::main]
async fn main() {
    let mut without = Side::start("off", "none").await;
    let mut with = Side::start("on", "all").await;
    for (what, path) in [
        ("a vital", "/api/v1/patients/{}/heart-rate"),
        ("a state", "/api/v1/patients/{}"),
        ("a page of history", "/api/v1/patients/{}/readings?limit=20"),
    ] {
        let (mut off, mut on) = (Vec::new(), Vec::new());
        let mut warm = Vec::new();
        without.read(path, 0, &mut warm).await;
        with.read(path, 0, &mut warm).await;
        let (spent_off, spent_on) = (without.server.on_core(), with.server.on_core());
        for turn in 0..TURNS {
            // Whoever is second finds the machine as warm as the first one left it.
            if turn % 2 == 0 {
                without.read(path, turn, &mut off).await;
                with.read(path, turn, &mut on).await;
            } else {
                with.read(path, turn, &mut on).await;
                without.read(path, turn, &mut off).await;
            }
        }
        let each = (TURNS * READS) as f64;
        let us = |spent: Duration| spent.as_secs_f64() * 1e6 / each;
        let (cpu_off, cpu_on) =
            (us(without.server.on_core() - spent_off), us(with.server.on_core() - spent_on));
        let (mean_off, mean_on) = (off.iter().sum::<f64>() / each, on.iter().sum::<f64>() / each);
        let (off, on) = (Latencies::new(off), Latencies::new(on));
        println!(
            "{what}: off p50 {:.3} p99 {:.3} mean {mean_off:.3} ms, {cpu_off:.0} µs of the server; \
             on p50 {:.3} p99 {:.3} mean {mean_on:.3} ms, {cpu_on:.0} µs; p50 {:+.1} %",
            off.ms(0.5),
            off.ms(0.99),
            on.ms(0.5),
            on.ms(0.99),
            (on.ms(0.5) / off.ms(0.5) - 1.0) * 100.0,
        );
    }
    without.server.stop().await;
    with.server.stop().await;
}
