//! Delivering: claim, send, record.
//!
//! Guarantees that an attempt happens outside any transaction, that its outcome is
//! recorded or the delivery is tried again when its lease ends, and that an endpoint
//! that hangs holds its own slots and nobody else's. Does not guarantee a single
//! attempt after a crash: leases save duplicate work, correctness does not need them.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Bell;
use super::endpoint;
use super::guard::Guard;
use super::schedule::{Schedule, parse_retry_after};
use super::sign::{ID_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER};
use crate::clock::Clock;
use crate::log::Log;

/// Attempts under way to one endpoint at one time.
const SLOTS_PER_ENDPOINT_MAX: i64 = 16;
/// Attempts under way in this process at one time.
const IN_FLIGHT_MAX: usize = 512;
/// An answer later than this is none.
const TIMEOUT_MS: u64 = 5_000;
/// After this an attempt is taken to have died with its process. Longer than the
/// timeout and the recording together.
const LEASE_SECONDS: f64 = 20.0;
/// How long the deliverer sleeps without looking for due retries.
const POLL_MS: u64 = 200;
/// How much of an answer is kept.
const ANSWER_HEAD_BYTES_MAX: usize = 256;
/// Outcomes written in one transaction.
const OUTCOMES_PER_WRITE_MAX: usize = 500;
/// The pause before outcomes that could not be written are tried again.
const RETRY_PAUSE_MS: u64 = 500;

/// The worker.
pub struct Deliverer {
    log: Log,
    pool: PgPool,
    guard: Guard,
    client: reqwest::Client,
    clock: Clock,
    bell: Bell,
}

/// A claimed delivery.
#[derive(Clone, Debug, FromRow)]
struct Claimed {
    shard: i16,
    position: i64,
    endpoint_id: Uuid,
    id: Uuid,
    webhook_id: String,
    body: String,
    attempts: i32,
    age_seconds: f64,
    url: String,
    secret: String,
}

/// What an attempt led to.
#[derive(Clone, Debug)]
struct Outcome {
    claimed: Claimed,
    started_at: DateTime<Utc>,
    latency: Duration,
    status: Option<u16>,
    error: Option<String>,
    answer_head: Option<String>,
    retry_after: Option<Duration>,
    /// For the jitter of the next attempt, 0–1.
    jitter: f64,
}

impl Outcome {
    fn delivered(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    fn gone(&self) -> bool {
        self.status == Some(410)
    }

    /// How long until the next attempt, if there is one.
    fn retry_in(&self) -> Option<Duration> {
        if self.delivered() || self.gone() {
            return None;
        }
        let age = Duration::try_from_secs_f64(self.claimed.age_seconds).unwrap_or_default();
        let attempts = self.claimed.attempts.unsigned_abs();
        Schedule::Alarm.next(attempts, age + self.latency, self.retry_after, self.jitter)
    }

    fn name(&self) -> &'static str {
        match (self.delivered(), self.retry_in()) {
            (true, _) => "delivered",
            (false, Some(_)) => "retry",
            (false, None) => "dead",
        }
    }
}

impl Deliverer {
    /// A deliverer that reaches what `guard` permits.
    pub fn new(
        log: &Log,
        pool: PgPool,
        guard: Guard,
        clock: Clock,
        bell: Bell,
    ) -> Result<Deliverer, reqwest::Error> {
        let client = guard
            .client()
            .timeout(Duration::from_millis(TIMEOUT_MS))
            .user_agent(concat!("vitals/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Deliverer { log: log.clone(), pool, guard, client, clock, bell })
    }

    /// Delivers until told to stop; then finishes the attempts under way.
    pub async fn run(self, stop: CancellationToken) {
        let deliverer = std::sync::Arc::new(self);
        let (outcomes, recorded) = mpsc::unbounded_channel();
        // In one task: a panic of either ends both, and is noticed.
        tokio::join!(deliverer.clone().send_all(outcomes, stop), deliverer.record_all(recorded));
    }

    async fn send_all(
        self: std::sync::Arc<Self>,
        outcomes: mpsc::UnboundedSender<Outcome>,
        stop: CancellationToken,
    ) {
        let mut under_way: JoinSet<Uuid> = JoinSet::new();
        let mut slots: HashMap<Uuid, i64> = HashMap::new();
        while !stop.is_cancelled() {
            let room = IN_FLIGHT_MAX.saturating_sub(under_way.len());
            let claimed = self.claim(&slots, room).await.unwrap_or_else(|error| {
                tracing::error!(%error, "no deliveries could be claimed; trying again");
                Vec::new()
            });
            for delivery in claimed {
                let endpoint = delivery.endpoint_id;
                *slots.entry(endpoint).or_default() += 1;
                let (deliverer, outcomes) = (self.clone(), outcomes.clone());
                under_way.spawn(async move {
                    let outcome = deliverer.attempt(delivery).await;
                    if outcomes.send(outcome).is_err() {
                        tracing::error!("an attempt was not recorded; its lease brings it back");
                    }
                    endpoint
                });
            }
            // Only where something was full can a freed slot mean more to claim.
            let full = under_way.len() >= IN_FLIGHT_MAX
                || slots.values().any(|busy| *busy >= SLOTS_PER_ENDPOINT_MAX);
            let poll = tokio::time::sleep(Duration::from_millis(POLL_MS));
            let mut poll = std::pin::pin!(poll);
            loop {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = self.bell.heard() => break,
                    () = &mut poll => break,
                    Some(done) = under_way.join_next() => free(&mut slots, done),
                }
                while let Some(done) = under_way.try_join_next() {
                    free(&mut slots, done);
                }
                if full {
                    break;
                }
            }
        }
        while under_way.join_next().await.is_some() {}
    }

    async fn claim(
        &self,
        slots: &HashMap<Uuid, i64>,
        room: usize,
    ) -> Result<Vec<Claimed>, sqlx::Error> {
        let (endpoints, busy): (Vec<Uuid>, Vec<i64>) = slots.iter().unzip();
        sqlx::query_as(include_str!("claim.sql"))
            .bind(endpoints)
            .bind(busy)
            .bind(SLOTS_PER_ENDPOINT_MAX)
            .bind(LEASE_SECONDS)
            .bind(i64::try_from(room).unwrap_or(0))
            .fetch_all(&self.pool)
            .await
    }

    /// One attempt; whatever happens is an outcome.
    async fn attempt(&self, claimed: Claimed) -> Outcome {
        let started_at = self.clock.now();
        let started = Instant::now();
        let answer = self.send(&claimed, started_at).await;
        let mut outcome = Outcome {
            claimed,
            started_at,
            latency: started.elapsed(),
            status: None,
            error: None,
            answer_head: None,
            retry_after: None,
            jitter: rand::random(),
        };
        match answer {
            Ok(answer) => {
                outcome.status = Some(answer.status().as_u16());
                outcome.retry_after = answer
                    .headers()
                    .get(reqwest::header::RETRY_AFTER)
                    .and_then(|value| parse_retry_after(value.to_str().ok()?, self.clock.now()));
                outcome.answer_head = head_of(answer).await;
                outcome.latency = started.elapsed();
            }
            Err(error) => outcome.error = Some(error),
        }
        metrics::counter!("vitals_webhook_attempts_total", "outcome" => outcome.name())
            .increment(1);
        metrics::histogram!("vitals_webhook_attempt_seconds").record(outcome.latency.as_secs_f64());
        outcome
    }

    async fn send(
        &self,
        claimed: &Claimed,
        now: DateTime<Utc>,
    ) -> Result<reqwest::Response, String> {
        // Again at every attempt: the operator's networks may have changed.
        let url = self.guard.check_url(&claimed.url).map_err(|e| e.to_string())?;
        let secret = Secret::parse(&claimed.secret).map_err(|e| e.to_string())?;
        let timestamp = now.timestamp();
        let signature = secret.sign(&claimed.webhook_id, timestamp, claimed.body.as_bytes());
        self.client
            .post(url)
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .header(ID_HEADER, &claimed.webhook_id)
            .header(TIMESTAMP_HEADER, timestamp)
            .header(SIGNATURE_HEADER, signature)
            .body(claimed.body.clone())
            .send()
            .await
            // Without the URL: it may hold a secret of the receiver's, and this is logged.
            .map_err(|error| with_sources(&error.without_url()))
    }

    async fn record_all(&self, mut outcomes: mpsc::UnboundedReceiver<Outcome>) {
        let mut batch = Vec::new();
        while outcomes.recv_many(&mut batch, OUTCOMES_PER_WRITE_MAX).await > 0 {
            self.record_surely(&mut batch).await;
            for outcome in batch.drain(..) {
                self.after(&outcome).await;
            }
        }
    }

    /// Records a batch, for as long as it takes. What PostgreSQL will never take is
    /// given up, loudly, so that it does not hold the others; its lease brings it back.
    async fn record_surely(&self, batch: &mut Vec<Outcome>) {
        while let Err(error) = self.record(batch).await {
            tracing::error!(%error, attempts = batch.len(), "attempts not recorded; trying again");
            if is_about_the_data(&error) {
                let mut kept = Vec::with_capacity(batch.len());
                for outcome in batch.drain(..) {
                    match self.record(std::slice::from_ref(&outcome)).await {
                        Err(error) if is_about_the_data(&error) => {
                            tracing::error!(%error, delivery = %outcome.claimed.id, "given up");
                        }
                        _ => kept.push(outcome),
                    }
                }
                *batch = kept;
            } else {
                tokio::time::sleep(Duration::from_millis(RETRY_PAUSE_MS)).await;
            }
        }
    }

    async fn record(&self, outcomes: &[Outcome]) -> Result<(), sqlx::Error> {
        fn column<'a, T: 'a>(of: &'a [Outcome], f: impl Fn(&'a Outcome) -> T + 'a) -> Vec<T> {
            of.iter().map(f).collect()
        }
        sqlx::query(include_str!("record.sql"))
            .bind(column(outcomes, |o| o.claimed.shard))
            .bind(column(outcomes, |o| o.claimed.position))
            .bind(column(outcomes, |o| o.claimed.endpoint_id))
            .bind(column(outcomes, |o| o.claimed.attempts))
            .bind(column(outcomes, |o| o.claimed.id))
            .bind(column(outcomes, |o| o.started_at))
            .bind(column(outcomes, |o| i32::try_from(o.latency.as_millis()).unwrap_or(i32::MAX)))
            .bind(column(outcomes, |o| o.status.map(i32::from)))
            .bind(column(outcomes, |o| o.error.as_deref()))
            .bind(column(outcomes, |o| o.answer_head.as_deref()))
            .bind(column(outcomes, Outcome::delivered))
            .bind(column(outcomes, |o| o.retry_in().map(|d| d.as_secs_f64())))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// What follows from an outcome beyond its own delivery.
    async fn after(&self, outcome: &Outcome) {
        let claimed = &outcome.claimed;
        if outcome.gone() {
            let reason = "the endpoint answered 410 Gone";
            let now = self.clock.now();
            let disabled =
                endpoint::disable(&self.log, &self.pool, claimed.endpoint_id, reason, now).await;
            if let Err(error) = disabled {
                tracing::error!(%error, endpoint = %claimed.endpoint_id, "answered 410 but was not disabled");
            }
        }
        if outcome.name() == "dead" {
            tracing::error!(
                delivery = %claimed.id, endpoint = %claimed.endpoint_id, attempts = claimed.attempts,
                status = outcome.status, error = outcome.error, "a page was not delivered"
            );
        }
    }
}

fn free(slots: &mut HashMap<Uuid, i64>, done: Result<Uuid, tokio::task::JoinError>) {
    match done {
        Ok(endpoint) => {
            if let Some(busy) = slots.get_mut(&endpoint) {
                *busy -= 1;
                if *busy == 0 {
                    slots.remove(&endpoint);
                }
            }
        }
        Err(error) => tracing::error!(%error, "an attempt panicked; its lease brings it back"),
    }
}

/// The first bytes of an answer; the rest is not read.
async fn head_of(mut answer: reqwest::Response) -> Option<String> {
    let mut head = Vec::new();
    while head.len() < ANSWER_HEAD_BYTES_MAX
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        let room = ANSWER_HEAD_BYTES_MAX - head.len();
        head.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
    }
    // PostgreSQL's text holds no NUL.
    let text = String::from_utf8_lossy(&head).replace('\0', "\u{fffd}");
    (!text.is_empty()).then_some(text)
}

/// Data exceptions and violated constraints: again would be the same.
fn is_about_the_data(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code());
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

/// "error sending request" alone does not say why.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
