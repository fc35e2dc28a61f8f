//! Devices and gateways: they send, and send again what was not acknowledged.
//!
//! Singles and batches, duplicates inside a batch, between requests and between
//! clients, the same key with another value, readings of months ago. A few requests
//! are given up after their first failure: nobody knows what became of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::books::{Books, Reading};
use crate::hospital::{Hospital, now};
use crate::support::pass_time;

/// How long a device waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(4);
const PATIENTS: u8 = 12;
const DEVICES: u8 = 4;
/// How far back late readings lie.
const LATE_DAYS_MAX: i64 = 300;
/// A device's pause between two requests, and before it tries again.
const PAUSE_MS_MAX: u64 = 25;
const AGAIN_MS: std::ops::Range<u64> = 20..250;

/// Where an instance can be reached, while it can.
pub type Door = watch::Receiver<Option<Hospital>>;

/// How a try ended.
enum Outcome {
    Acknowledged,
    Unknown,
}

pub struct Client {
    rng: StdRng,
    books: Arc<Mutex<Books>>,
    doors: Vec<Door>,
}

impl Client {
    pub fn new(seed: u64, books: &Arc<Mutex<Books>>, doors: &[Door]) -> Client {
        let rng = StdRng::seed_from_u64(seed);
        Client { rng, books: books.clone(), doors: doors.to_vec() }
    }

    /// Sends until it is told to stop, and then what is still open until it is taken.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let readings = self.request();
            let gives_up = self.rng.random_bool(0.1);
            while let Outcome::Unknown = self.send(&readings).await {
                if gives_up {
                    break;
                }
                pass_time(Duration::from_millis(self.rng.random_range(AGAIN_MS))).await;
            }
            pass_time(Duration::from_millis(self.rng.random_range(0..PAUSE_MS_MAX))).await;
        }
    }

    fn request(&mut self) -> Vec<Reading> {
        let size = match self.rng.random_range(0..10) {
            0..5 => 1,
            5..9 => self.rng.random_range(2..40),
            _ => self.rng.random_range(40..400),
        };
        let mut readings: Vec<Reading> = Vec::with_capacity(size);
        while readings.len() < size {
            let reading = match self.rng.random_range(0..10) {
                0..7 => self.fresh(),
                // Twice in this request.
                7 => match readings.get(self.rng.random_range(0..size)) {
                    Some(reading) => self.perhaps_altered(reading.clone()),
                    None => self.fresh(),
                },
                // Somebody else's, acknowledged, under way or given up.
                _ => {
                    let nth = self.rng.random_range(0..1000);
                    let recent = self.books.lock().unwrap().recent(nth);
                    match recent {
                        Some(reading) => self.perhaps_altered(reading),
                        None => self.fresh(),
                    }
                }
            };
            readings.push(reading);
        }
        readings
    }

    fn fresh(&mut self) -> Reading {
        let mut at = now() - TimeDelta::microseconds(self.rng.random_range(0..5_000_000));
        if self.rng.random_bool(0.03) {
            at -= TimeDelta::days(self.rng.random_range(1..LATE_DAYS_MAX));
        }
        Reading {
            patient: self.rng.random_range(0..PATIENTS),
            vital: self.rng.random_range(0..3),
            at,
            device: self.rng.random_range(0..DEVICES),
            value: self.rng.random_range(50..100),
        }
    }

    fn perhaps_altered(&mut self, reading: Reading) -> Reading {
        let value = match self.rng.random_bool(0.3) {
            true => self.rng.random_range(50..100),
            false => reading.value,
        };
        Reading { value, ..reading }
    }

    async fn door(&mut self) -> Hospital {
        loop {
            let nth = self.rng.random_range(0..self.doors.len());
            let open = self.doors[nth].borrow().clone();
            if let Some(hospital) = open {
                return hospital;
            }
            pass_time(Duration::from_millis(10)).await;
        }
    }

    async fn send(&mut self, readings: &[Reading]) -> Outcome {
        let hospital = self.door().await;
        let body = match readings {
            [one] => one.json(),
            many => many.iter().map(Reading::json).collect(),
        };
        let request = hospital.request(Method::POST, "/readings").json(&body).timeout(ANSWER_MAX);
        let attempt = self.books.lock().unwrap().begin(readings);
        let answer = async {
            let answer = request.send().await?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            Ok::<_, reqwest::Error>((status, headers, answer.text().await?))
        };
        let answer = answer.await;
        let mut books = self.books.lock().unwrap();
        match answer {
            Ok((201, _, text)) => {
                let said: Value = serde_json::from_str(&text).unwrap_or_default();
                let count = |name: &str| said[name].as_u64().map(|n| n as usize);
                match (count("stored"), count("duplicates")) {
                    (Some(stored), Some(duplicates)) => {
                        books.acknowledge(attempt, stored, duplicates);
                    }
                    _ => books.lie(format!("201 with {text}")),
                }
                return Outcome::Acknowledged;
            }
            Ok((503, headers, text)) => {
                books.refused_requests += 1;
                let after = headers.get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
                if !after.is_some_and(|seconds: u32| (1..=60).contains(&seconds)) {
                    books.lie(format!("503 that does not say when to come again: {text}"));
                }
            }
            Ok((status, _, text)) => books.lie(format!("{status} with {text}")),
            // Cut off: whoever dies cannot say so.
            Err(_) => books.broken_requests += 1,
        }
        Outcome::Unknown
    }
}
