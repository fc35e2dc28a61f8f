//! Delivering: claim, send, record.
//!
//! Guarantees that an attempt happens outside any transaction, that its outcome is
//! recorded or the delivery is tried again when its lease ends, and that an endpoint
//! that hangs holds its own slots and nobody else's. Does not guarantee a single
//! attempt after a crash: leases save duplicate work, correctness does not need them.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::breaker::{self, RETRY_AFTER_S_OPENS};
use super::claim::{Claimed, Room, Waiting, claim, release};
use super::desk::{Desk, Slot};
use super::endpoint;
use super::line::Lines;
use super::outcome::{Fate, Outcome, is_about_the_data, record};
use super::send::{Attempt, Sender};
use crate::clock::Clock;
use crate::log::{Log, Patience, answered, answered_soon};

/// How long the deliverer sleeps without looking for due retries.
const POLL_MS: u64 = 200;
/// Outcomes written in one transaction.
const OUTCOMES_PER_WRITE_MAX: usize = 500;
/// How long an outcome that nobody waits for may wait for others, to be written with them:
/// a statement costs much more than a row. After a crash so much more is sent twice.
const RECORD_PACE_MS: u64 = 10;
/// The pause after a delivery that this machine could not send for want of something.
const LACK_PAUSE_MS: u64 = 100;
/// The pause before outcomes that could not be written are tried again.
const RETRY_PAUSE_MS: u64 = 500;

/// The worker.
pub struct Deliverer {
    log: Log,
    pool: PgPool,
    sender: Sender,
    clock: Clock,
    desk: Desk,
}

impl Deliverer {
    /// A deliverer over these lines.
    pub fn new(log: &Log, pool: PgPool, lines: Lines, clock: Clock, desk: Desk) -> Deliverer {
        let sender = Sender::new(lines, clock.clone());
        Deliverer { log: log.clone(), pool, sender, clock, desk }
    }

    /// Delivers until told to stop; then finishes the attempts under way.
    pub async fn run(self, stop: CancellationToken) {
        let deliverer = Arc::new(self);
        let (outcomes, recorded) = mpsc::unbounded_channel();
        // In one task: a panic of either ends all, and is noticed.
        tokio::join!(
            deliverer.clone().send_all(outcomes, stop.clone()),
            deliverer.claim_all(&stop),
            deliverer.record_all(recorded),
        );
    }

    /// Starts what is on the desk. What a fan-out handed over waits for no question.
    async fn send_all(
        self: Arc<Self>,
        outcomes: mpsc::UnboundedSender<Outcome>,
        stop: CancellationToken,
    ) {
        let under_way = TaskTracker::new();
        while !stop.is_cancelled() {
            for slot in self.desk.start() {
                under_way.spawn(self.clone().work(slot, outcomes.clone(), stop.clone()));
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.desk.heard() => {}
            }
        }
        under_way.close();
        under_way.wait().await;
        self.give_back(self.desk.clear_all()).await;
    }

    /// Puts on the desk what is due in the database: when somebody says so, and by a timer.
    async fn claim_all(&self, stop: &CancellationToken) {
        let mut poll = tokio::time::interval(Duration::from_millis(POLL_MS));
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut patience = Patience::default();
        loop {
            let polled = tokio::select! {
                () = stop.cancelled() => return,
                () = self.desk.told_to_look() => false,
                _ = poll.tick() => true,
            };
            let room = self.desk.room();
            match patience.answered(self.claim(&room, polled)).await {
                Ok(claimed) => {
                    if !claimed.is_empty() {
                        patience.regain();
                    }
                    self.desk.claimed(&room, claimed);
                }
                Err(error) => {
                    tracing::error!(%error, "no deliveries could be claimed; trying again");
                }
            }
        }
    }

    async fn claim(&self, room: &Room, polled: bool) -> Result<Vec<Claimed>, sqlx::Error> {
        // Pauses end by the clock, so the timer is soon enough.
        let probes = if polled { breaker::to_probe(&self.pool).await? } else { Vec::new() };
        claim(&self.pool, room, &probes).await
    }

    /// One delivery of an endpoint after the other, as long as there are any.
    async fn work(
        self: Arc<Self>,
        mut slot: Slot,
        outcomes: mpsc::UnboundedSender<Outcome>,
        stop: CancellationToken,
    ) {
        while let Some(waiting) = slot.next() {
            if waiting.too_late() || stop.is_cancelled() {
                self.give_back(vec![waiting]).await;
                continue;
            }
            let mut outcome = match self.sender.attempt(waiting).await {
                Attempt::Ended(outcome) => outcome,
                Attempt::NotMade(waiting, why) => {
                    tracing::error!(%why, "a delivery was not sent; it is tried again soon");
                    metrics::counter!("vitals_refused_total", "limit" => "deliveries", "whose" => "process")
                        .increment(1);
                    tokio::time::sleep(Duration::from_millis(LACK_PAUSE_MS)).await;
                    self.give_back(vec![waiting]).await;
                    continue;
                }
            };
            count(&outcome);
            let claimed = &outcome.claimed;
            if !claimed.probe {
                let asked = outcome.retry_after.unwrap_or_default().as_secs();
                let at_once = claimed.is_high && asked > RETRY_AFTER_S_OPENS;
                let (endpoint, delivered) = (claimed.endpoint_id, outcome.delivered());
                outcome.opens = self.desk.ended(endpoint, delivered, at_once, Instant::now());
            }
            if outcomes.send(outcome).is_err() {
                tracing::error!("an attempt was not recorded; its lease brings it back");
            }
        }
    }

    /// What was claimed and is not sent. If that fails, the leases bring it back.
    async fn give_back(&self, unsent: Vec<Waiting>) {
        if unsent.is_empty() {
            return;
        }
        if let Err(error) = answered(release(&self.pool, &unsent)).await {
            tracing::warn!(%error, "deliveries not given back; their leases bring them back");
        }
    }

    async fn record_all(&self, mut outcomes: mpsc::UnboundedReceiver<Outcome>) {
        let mut batch = Vec::new();
        while outcomes.recv_many(&mut batch, OUTCOMES_PER_WRITE_MAX).await > 0 {
            if !batch.iter().any(Outcome::is_waited_for) {
                tokio::time::sleep(Duration::from_millis(RECORD_PACE_MS)).await;
                while batch.len() < OUTCOMES_PER_WRITE_MAX
                    && let Ok(outcome) = outcomes.try_recv()
                {
                    batch.push(outcome);
                }
            }
            self.record_surely(&mut batch).await;
            for outcome in batch.drain(..) {
                self.after(&outcome).await;
            }
        }
    }

    /// Records a batch, for as long as it takes. What PostgreSQL will never take is
    /// given up, loudly, so that it does not hold the others; its lease brings it back.
    async fn record_surely(&self, batch: &mut Vec<Outcome>) {
        while let Err(error) = answered_soon(record(&self.pool, batch)).await {
            tracing::error!(%error, attempts = batch.len(), "attempts not recorded; trying again");
            if is_about_the_data(&error) {
                let mut kept = Vec::with_capacity(batch.len());
                for outcome in batch.drain(..) {
                    match answered_soon(record(&self.pool, std::slice::from_ref(&outcome))).await {
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

    /// What follows from an outcome beyond its own delivery.
    async fn after(&self, outcome: &Outcome) {
        let claimed = &outcome.claimed;
        if claimed.ordered {
            self.desk.look();
        }
        if outcome.gone() {
            self.disable(outcome).await;
        } else if claimed.probe && outcome.delivered() {
            let now = self.clock.now();
            let closed = breaker::close(&self.log, &self.pool, claimed.endpoint_id, now);
            match answered(closed).await {
                Ok(()) => self.desk.look(),
                Err(error) => tracing::error!(%error, "a breaker was not closed; it probes again"),
            }
        } else if claimed.probe || outcome.opens {
            self.open(outcome).await;
        }
        if outcome.fate() == Fate::Dead {
            tracing::error!(
                delivery = %claimed.id, endpoint = %claimed.endpoint_id, attempts = claimed.attempts,
                status = outcome.status, error = outcome.error, "a page was not delivered"
            );
        }
    }

    async fn disable(&self, outcome: &Outcome) {
        let (id, now) = (outcome.claimed.endpoint_id, self.clock.now());
        let reason = "the endpoint answered 410 Gone";
        let disabled = endpoint::disable(&self.log, &self.pool, id, reason, now);
        if let Err(error) = answered(disabled).await {
            tracing::error!(%error, endpoint = %id, "answered 410 but was not disabled");
        }
        self.give_back(self.desk.clear(id)).await;
    }

    async fn open(&self, outcome: &Outcome) {
        let (id, now) = (outcome.claimed.endpoint_id, self.clock.now());
        let (reason, jitter) = (outcome.what(), rand::random());
        let asked = outcome.retry_after;
        let opened = breaker::open(&self.log, &self.pool, id, &reason, asked, jitter, now);
        if let Err(error) = answered(opened).await {
            tracing::error!(%error, endpoint = %id, "fails and was not held for broken; again later");
        }
        self.give_back(self.desk.clear(id)).await;
    }
}

fn count(outcome: &Outcome) {
    let class = outcome.claimed.schedule.name();
    let name = outcome.fate().name();
    metrics::counter!("vitals_webhook_attempts_total", "outcome" => name, "class" => class)
        .increment(1);
    metrics::histogram!("vitals_webhook_attempt_seconds", "class" => class)
        .record(outcome.latency.as_secs_f64());
    if outcome.delivered() {
        metrics::histogram!("vitals_webhook_delivery_seconds", "class" => class)
            .record(outcome.age.as_secs_f64());
    }
}
