//! Delivering: claim, send, record.
//!
//! Guarantees that an attempt happens outside any transaction, that its outcome is
//! recorded or the delivery is tried again when its lease ends, and that an endpoint
//! that hangs holds its own slots and no others. Does not guarantee a single
//! attempt after a crash: leases save duplicate work, correctness does not need them.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::attempt::{Attempt, Fate, is_about_the_data, record};
use super::breaker::{self, RETRY_AFTER_S_OPENS};
use super::claim::{Capacity, Claimed, Waiting, claim, release};
use super::endpoint;
use super::queue::{DeliveryQueue, Slot};
use super::transport::{
    AttemptOutcome, Destination, Message, NotSent, SequenceNumber, Transport, Verdict,
};
use crate::clock::Clock;
use crate::log::{Log, ReplyTimeout, answered, answered_soon};
use crate::trace::{self, Moment, Span, SpanKind, TraceContext};

/// How long the deliverer sleeps without looking for due retries.
const POLL_MS: u64 = 200;
/// Attempts recorded in one transaction.
const ATTEMPTS_PER_WRITE_MAX: usize = 500;
/// How long an attempt that nothing waits for may wait for others, to be written with them:
/// a statement costs much more than a row. After a crash so much more is sent twice.
const RECORD_PACE_MS: u64 = 10;
/// The pause after a delivery that this machine could not send for want of something.
const LACK_PAUSE_MS: u64 = 100;
/// The pause before attempts that could not be recorded are recorded again.
const RETRY_PAUSE_MS: u64 = 500;

/// The worker.
pub struct Deliverer<T> {
    log: Log,
    pool: PgPool,
    transport: T,
    clock: Clock,
    queue: DeliveryQueue,
}

impl<T: Transport> Deliverer<T> {
    /// A deliverer by this transport.
    pub fn new(
        log: &Log,
        pool: PgPool,
        transport: T,
        clock: Clock,
        queue: DeliveryQueue,
    ) -> Deliverer<T> {
        Deliverer { log: log.clone(), pool, transport, clock, queue }
    }

    /// Delivers until told to stop; then finishes the attempts under way.
    pub async fn run(self, stop: CancellationToken) {
        let deliverer = Arc::new(self);
        let (attempts, to_record) = mpsc::unbounded_channel();
        // In one task: a panic of either ends all, and is noticed.
        tokio::join!(
            deliverer.clone().send_all(attempts, stop.clone()),
            deliverer.claim_all(&stop),
            deliverer.record_all(to_record),
        );
    }

    /// Starts what is in the queue. What a fan-out handed over waits for no claim.
    async fn send_all(
        self: Arc<Self>,
        attempts: mpsc::UnboundedSender<Attempt>,
        stop: CancellationToken,
    ) {
        let under_way = TaskTracker::new();
        while !stop.is_cancelled() {
            for slot in self.queue.start() {
                under_way.spawn(self.clone().work(slot, attempts.clone(), stop.clone()));
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.queue.ready() => {}
            }
        }
        under_way.close();
        under_way.wait().await;
        self.give_back(self.queue.clear_all()).await;
    }

    /// Puts into the queue what is due in the database: when told to look, and by a timer.
    async fn claim_all(&self, stop: &CancellationToken) {
        let mut poll = tokio::time::interval(Duration::from_millis(POLL_MS));
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut timeout = ReplyTimeout::default();
        loop {
            let polled = tokio::select! {
                () = stop.cancelled() => return,
                () = self.queue.claim_requested() => false,
                _ = poll.tick() => true,
            };
            let capacity = self.queue.capacity();
            match timeout.answered(self.claim(&capacity, polled)).await {
                Ok(claimed) => {
                    if !claimed.is_empty() {
                        timeout.reset();
                    }
                    self.queue.claimed(&capacity, claimed);
                }
                Err(error) => {
                    tracing::error!(%error, "no deliveries could be claimed; trying again");
                }
            }
        }
    }

    async fn claim(&self, capacity: &Capacity, polled: bool) -> Result<Vec<Claimed>, sqlx::Error> {
        // Pauses end by the clock, so the timer is soon enough.
        let probes = if polled { breaker::to_probe(&self.pool).await? } else { Vec::new() };
        claim(&self.pool, capacity, &probes).await
    }

    /// One delivery of an endpoint after the other, as long as there are any.
    async fn work(
        self: Arc<Self>,
        mut slot: Slot,
        attempts: mpsc::UnboundedSender<Attempt>,
        stop: CancellationToken,
    ) {
        while let Some(waiting) = slot.next() {
            if waiting.too_late() || stop.is_cancelled() {
                self.give_back(vec![waiting]).await;
                continue;
            }
            let mut attempt = match self.attempt(waiting).await {
                Ok(attempt) => attempt,
                Err((waiting, why)) => {
                    tracing::error!(%why, "a delivery was not sent; it is tried again soon");
                    metrics::counter!("vitals_refused_total", "limit" => "deliveries", "whose" => "process")
                        .increment(1);
                    tokio::time::sleep(Duration::from_millis(LACK_PAUSE_MS)).await;
                    self.give_back(vec![waiting]).await;
                    continue;
                }
            };
            count(&attempt);
            let claimed = &attempt.claimed;
            if !claimed.probe {
                let asked = attempt.retry_after().unwrap_or_default().as_secs();
                let at_once = claimed.is_high && asked > RETRY_AFTER_S_OPENS;
                let (endpoint, delivered) = (claimed.endpoint_id, attempt.outcome.is_delivered());
                attempt.opens = self.queue.ended(endpoint, delivered, at_once, Instant::now());
            }
            if attempts.send(attempt).is_err() {
                tracing::error!("an attempt was not recorded; its lease brings it back");
            }
        }
    }

    /// One attempt; whatever the receiver does is one. What could not even be sent is none,
    /// and is given back.
    async fn attempt(&self, waiting: Waiting) -> Result<Attempt, (Waiting, NotSent)> {
        let (started_at, started) = (self.clock.now(), Instant::now());
        let claimed = &waiting.claimed;
        let number = claimed.sequence.map(|sequence| SequenceNumber {
            sequence,
            incarnation: self.log.incarnations().of_sequence(sequence),
        });
        let (id, body) = (&*claimed.webhook_id, &*claimed.body);
        let (trace, step) = step_of(claimed);
        let message = Message { id, number, body, sent_at: started_at, trace: trace.as_ref() };
        let to = Destination { endpoint_id: claimed.endpoint_id, version: claimed.version };
        let sent = self.transport.send(message, to).await;
        end(step, &sent);
        match sent {
            Ok(outcome) => Ok(Attempt {
                started_at,
                latency: started.elapsed(),
                age: waiting.age(),
                claimed: waiting.claimed,
                outcome,
                jitter: rand::random(),
                opens: false,
            }),
            Err(why) => Err((waiting, why)),
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

    async fn record_all(&self, mut attempts: mpsc::UnboundedReceiver<Attempt>) {
        let mut batch = Vec::new();
        while attempts.recv_many(&mut batch, ATTEMPTS_PER_WRITE_MAX).await > 0 {
            if !batch.iter().any(Attempt::is_waited_for) {
                tokio::time::sleep(Duration::from_millis(RECORD_PACE_MS)).await;
                while batch.len() < ATTEMPTS_PER_WRITE_MAX
                    && let Ok(attempt) = attempts.try_recv()
                {
                    batch.push(attempt);
                }
            }
            self.record_surely(&mut batch).await;
            for attempt in batch.drain(..) {
                match attempt.claimed.trace_context() {
                    Some(trace) => trace::within(trace, self.after(&attempt)).await,
                    None => self.after(&attempt).await,
                }
            }
        }
    }

    /// Records a batch, for as long as it takes. What PostgreSQL will never take is
    /// given up, loudly, so that it does not hold the others; its lease brings it back.
    async fn record_surely(&self, batch: &mut Vec<Attempt>) {
        while let Err(error) = answered_soon(record(&self.pool, batch)).await {
            tracing::error!(%error, attempts = batch.len(), "attempts not recorded; trying again");
            if is_about_the_data(&error) {
                let mut kept = Vec::with_capacity(batch.len());
                for attempt in batch.drain(..) {
                    match answered_soon(record(&self.pool, std::slice::from_ref(&attempt))).await {
                        Err(error) if is_about_the_data(&error) => {
                            tracing::error!(%error, delivery = %attempt.claimed.id, "given up");
                        }
                        _ => kept.push(attempt),
                    }
                }
                *batch = kept;
            } else {
                tokio::time::sleep(Duration::from_millis(RETRY_PAUSE_MS)).await;
            }
        }
    }

    /// What follows from an attempt beyond its own delivery.
    async fn after(&self, attempt: &Attempt) {
        let (claimed, outcome) = (&attempt.claimed, &attempt.outcome);
        if claimed.ordered {
            self.queue.request_claim();
        }
        if let Verdict::Gone { reason } = &outcome.verdict {
            self.disable(claimed.endpoint_id, reason).await;
        } else if claimed.probe && outcome.is_delivered() {
            let now = self.clock.now();
            let closed = breaker::close(&self.log, &self.pool, claimed.endpoint_id, now);
            match answered(closed).await {
                Ok(()) => self.queue.request_claim(),
                Err(error) => tracing::error!(%error, "a breaker was not closed; it probes again"),
            }
        } else if claimed.probe || attempt.opens {
            self.open(attempt).await;
        }
        if attempt.fate() == Fate::Dead {
            tracing::error!(
                delivery = %claimed.id, endpoint = %claimed.endpoint_id, attempts = claimed.attempts,
                status = outcome.status, error = outcome.error(), "a page was not delivered"
            );
        }
    }

    async fn disable(&self, id: Uuid, reason: &str) {
        let now = self.clock.now();
        let disabled = endpoint::disable(&self.log, &self.pool, id, reason, now);
        if let Err(error) = answered(disabled).await {
            tracing::error!(%error, endpoint = %id, "is gone but was not disabled");
        }
        self.give_back(self.queue.clear(id)).await;
    }

    async fn open(&self, attempt: &Attempt) {
        let (id, now) = (attempt.claimed.endpoint_id, self.clock.now());
        let (reason, jitter) = (attempt.outcome.reason().unwrap_or_default(), rand::random());
        let asked = attempt.retry_after();
        let opened = breaker::open(&self.log, &self.pool, id, reason, asked, jitter, now);
        if let Err(error) = answered(opened).await {
            tracing::error!(%error, endpoint = %id, "fails and was not held for broken; again later");
        }
        self.give_back(self.queue.clear(id)).await;
    }
}

/// The trace of an attempt, and the step that it is, if this process records it.
fn step_of(claimed: &Claimed) -> (Option<TraceContext>, Option<Span>) {
    let Some(before) = claimed.trace_context() else { return (None, None) };
    let step = trace::child(&before, "attempt", SpanKind::Client, Moment::default());
    let Some(mut step) = step else { return (Some(before), None) };
    step.set("vitals.delivery", claimed.id.to_string());
    step.set("vitals.endpoint", claimed.endpoint_id.to_string());
    step.set("vitals.tenant", claimed.tenant.clone());
    step.set("vitals.attempt", i64::from(claimed.attempts));
    (Some(step.context()), Some(step))
}

/// Without the reason: it may hold what a receiver says of a patient.
fn end(step: Option<Span>, sent: &Result<AttemptOutcome, NotSent>) {
    let Some(mut step) = step else { return };
    match sent {
        Ok(outcome) => {
            if let Some(status) = outcome.status {
                step.set("http.response.status_code", i64::from(status));
            }
            if !outcome.is_delivered() {
                step.fail(if outcome.status.is_some() { "refused" } else { "unanswered" });
            }
        }
        Err(NotSent(_)) => step.fail("not sent"),
    }
}

fn count(attempt: &Attempt) {
    let class = attempt.claimed.schedule.name();
    let name = attempt.fate().name();
    metrics::counter!("vitals_webhook_attempts_total", "outcome" => name, "class" => class)
        .increment(1);
    metrics::histogram!("vitals_webhook_attempt_seconds", "class" => class)
        .record(attempt.latency.as_secs_f64());
    if attempt.outcome.is_delivered() {
        metrics::histogram!("vitals_webhook_delivery_seconds", "class" => class)
            .record(attempt.age.as_secs_f64());
    }
}
