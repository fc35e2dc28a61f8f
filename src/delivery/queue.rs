//! The queue: claimed deliveries of this process, one queue an endpoint, until they are sent.
//!
//! Guarantees that an endpoint has at most [`SLOTS_PER_ENDPOINT_MAX`] attempts under way
//! and always may have [`SLOTS_GUARANTEED`], whatever others do; that what goes beyond
//! those is bounded for a tenant and for the process; that a slot comes free also when its
//! attempt panics. Holds nothing that is not in the database as well: what is lost with
//! the process comes back when its lease ends.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

use super::claim::{Capacity, Claimed, Made, Waiting};

/// Attempts under way to one endpoint at one time.
pub const SLOTS_PER_ENDPOINT_MAX: usize = 16;
/// Attempts that an endpoint may always have under way; after a failure also the most that
/// it may.
pub const SLOTS_GUARANTEED: usize = 2;
/// Attempts under way in this process beyond those that are guaranteed.
pub const IN_FLIGHT_MAX: usize = 512;
/// The part of them that one tenant may have.
pub const IN_FLIGHT_OF_TENANT_MAX: usize = 256;
/// Claimed deliveries of one endpoint that wait in this process.
pub const QUEUED_PER_ENDPOINT_MAX: usize = 128;
/// When so few are left, the next ones are claimed.
const QUEUED_LOW: usize = 32;
/// What one claim takes at most.
pub const CLAIMED_AT_ONCE_MAX: usize = 512;
/// So many failures in a row, and none delivered in between, open the breaker …
pub const FAILURES_TO_OPEN: u32 = 3;
/// … if the first of them is so long ago: attempts that failed together are one failure.
pub const FAILING_MS_MIN: u64 = 500;

/// Shared by the fan-out, which puts deliveries in it, and the deliverer. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct DeliveryQueue(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    queues: Mutex<Queues>,
    /// Something waits for its attempt.
    ready: Notify,
    /// Something may be there to claim.
    due: Notify,
}

#[derive(Debug, Default)]
struct Queues {
    by_endpoint: HashMap<Uuid, EndpointQueue>,
    /// Attempts beyond the guaranteed ones, in all and by tenant.
    beyond: usize,
    beyond_of: HashMap<Arc<str>, usize>,
    /// An attempt could not start for want of these.
    starved: bool,
}

#[derive(Debug)]
struct EndpointQueue {
    tenant: Arc<str>,
    busy: usize,
    waiting: VecDeque<Waiting>,
    /// More of it is due in the database.
    behind: bool,
    failures: u32,
    failing_since: Option<Instant>,
}

impl EndpointQueue {
    fn new(tenant: &str) -> EndpointQueue {
        let (busy, waiting, failures) = (0, VecDeque::new(), 0);
        EndpointQueue {
            tenant: tenant.into(),
            busy,
            waiting,
            behind: false,
            failures,
            failing_since: None,
        }
    }

    fn is_idle(&self) -> bool {
        self.busy == 0 && self.waiting.is_empty() && !self.behind && self.failures == 0
    }

    fn slots_max(&self) -> usize {
        if self.failures > 0 { SLOTS_GUARANTEED } else { SLOTS_PER_ENDPOINT_MAX }
    }

    /// How many more may wait here; of an endpoint that fails, none but what it can send.
    fn capacity(&self) -> usize {
        let most = if self.failures > 0 { SLOTS_GUARANTEED } else { QUEUED_PER_ENDPOINT_MAX };
        most.saturating_sub(self.waiting.len() + if self.failures > 0 { self.busy } else { 0 })
    }
}

impl Queues {
    /// Takes a slot for an endpoint, if it may have one.
    fn start(&mut self, endpoint: Uuid) -> Option<Waiting> {
        let queue = self.by_endpoint.get_mut(&endpoint)?;
        if queue.waiting.is_empty() || queue.busy >= queue.slots_max() {
            return None;
        }
        if queue.busy >= SLOTS_GUARANTEED {
            let of_tenant = self.beyond_of.get(&queue.tenant).copied().unwrap_or_default();
            if self.beyond >= IN_FLIGHT_MAX || of_tenant >= IN_FLIGHT_OF_TENANT_MAX {
                self.starved = true;
                return None;
            }
            self.beyond += 1;
            *self.beyond_of.entry(queue.tenant.clone()).or_default() += 1;
        }
        queue.busy += 1;
        queue.waiting.pop_front()
    }

    fn stop(&mut self, endpoint: Uuid) {
        let Some(queue) = self.by_endpoint.get_mut(&endpoint) else { return };
        if queue.busy > SLOTS_GUARANTEED {
            self.beyond = self.beyond.saturating_sub(1);
            if let Some(of_tenant) = self.beyond_of.get_mut(&queue.tenant) {
                *of_tenant -= 1;
                if *of_tenant == 0 {
                    self.beyond_of.remove(&queue.tenant);
                }
            }
        }
        queue.busy = queue.busy.saturating_sub(1);
        if queue.is_idle() {
            self.by_endpoint.remove(&endpoint);
        }
    }
}

impl DeliveryQueue {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.queues.lock()
    }

    /// Something may be due in the database. A hint, as every wake-up.
    pub fn request_claim(&self) {
        self.0.due.notify_one();
    }

    pub(super) async fn claim_requested(&self) {
        self.0.due.notified().await;
    }

    /// Waits until something may be started.
    pub(super) async fn ready(&self) {
        self.0.ready.notified().await;
    }

    /// How much a claim may take.
    pub fn capacity(&self) -> Capacity {
        self.capacities(|queue| queue.capacity())
    }

    /// How much a fan-out may claim of what it makes: nothing where older ones wait in the
    /// database, which would be overtaken again and again.
    pub fn capacity_for_new(&self) -> Capacity {
        self.capacities(
            |queue| if queue.behind || queue.failures > 0 { 0 } else { queue.capacity() },
        )
    }

    fn capacities(&self, of: impl Fn(&EndpointQueue) -> usize) -> Capacity {
        let queues = self.queues();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let (endpoints, each) = queues
            .by_endpoint
            .iter()
            .map(|(endpoint, queue)| (*endpoint, count(of(queue))))
            .unzip();
        let others = count(QUEUED_PER_ENDPOINT_MAX);
        Capacity { endpoints, each, others, in_all: count(CLAIMED_AT_ONCE_MAX) }
    }

    /// Takes what a fan-out made.
    pub fn made(&self, made: Vec<Made>) {
        let mut queues = self.queues();
        let mut unclaimed = false;
        for delivery in made {
            match delivery {
                Made::Claimed(delivery) => {
                    let queue = queues.by_endpoint.entry(delivery.endpoint_id);
                    let queue = queue.or_insert_with(|| EndpointQueue::new(&delivery.tenant));
                    queue.waiting.push_back(Waiting::new(delivery));
                }
                Made::Waits { endpoint_id } => match queues.by_endpoint.get_mut(&endpoint_id) {
                    // Looked for when something of it ends: a claim now would be in vain.
                    Some(queue) if queue.capacity() == 0 => queue.behind = true,
                    _ => unclaimed = true,
                },
            }
        }
        drop(queues);
        self.0.ready.notify_one();
        if unclaimed {
            self.request_claim();
        }
    }

    /// Takes what was claimed for `capacity`.
    pub(super) fn claimed(&self, capacity: &Capacity, mut claimed: Vec<Claimed>) {
        // An update returns its rows in any order.
        claimed.sort_unstable_by_key(|delivery| delivery.sequence);
        let mut queues = self.queues();
        let full = i64::try_from(claimed.len()).unwrap_or(i64::MAX) >= capacity.in_all;
        let mut counts: HashMap<Uuid, i64> = HashMap::new();
        for delivery in claimed {
            *counts.entry(delivery.endpoint_id).or_default() += 1;
            let queue = queues.by_endpoint.entry(delivery.endpoint_id);
            let queue = queue.or_insert_with(|| EndpointQueue::new(&delivery.tenant));
            queue.waiting.push_back(Waiting::new(delivery));
        }
        let asked: HashMap<&Uuid, i64> =
            capacity.endpoints.iter().zip(capacity.each.iter().copied()).collect();
        queues.by_endpoint.retain(|endpoint, queue| {
            let asked = asked.get(endpoint).copied().unwrap_or(capacity.others);
            let got = counts.get(endpoint).copied().unwrap_or_default();
            // What nothing was asked of is as it was.
            queue.behind = if asked > 0 { got >= asked || (full && got > 0) } else { queue.behind };
            !queue.is_idle()
        });
        drop(queues);
        self.0.ready.notify_one();
    }

    /// Starts what may start: one attempt of each endpoint after the other.
    pub(super) fn start(&self) -> Vec<Slot> {
        let mut queues = self.queues();
        queues.starved = false;
        let mut ready: Vec<Uuid> = queues
            .by_endpoint
            .iter()
            .filter(|(_, queue)| !queue.waiting.is_empty())
            .map(|(id, _)| *id)
            .collect();
        let mut slots = Vec::new();
        while !ready.is_empty() {
            ready.retain(|endpoint| match queues.start(*endpoint) {
                Some(first) => {
                    let (all, endpoint) = (self.clone(), *endpoint);
                    slots.push(Slot { all, endpoint, first: Some(first) });
                    true
                }
                None => false,
            });
        }
        slots
    }

    /// Notes how an attempt ended; whether the breaker is to be opened. `at_once` for a
    /// failure that needs no second one.
    pub(super) fn ended(
        &self,
        endpoint: Uuid,
        delivered: bool,
        at_once: bool,
        now: Instant,
    ) -> bool {
        let mut queues = self.queues();
        let Some(queue) = queues.by_endpoint.get_mut(&endpoint) else { return false };
        if delivered {
            (queue.failures, queue.failing_since) = (0, None);
            return false;
        }
        queue.failures += 1;
        let since = *queue.failing_since.get_or_insert(now);
        let long = now - since >= Duration::from_millis(FAILING_MS_MIN);
        let open = at_once || (queue.failures >= FAILURES_TO_OPEN && long);
        if open {
            (queue.failures, queue.failing_since) = (0, None);
        }
        open
    }

    /// What waits for an endpoint, for giving it back.
    pub(super) fn clear(&self, endpoint: Uuid) -> Vec<Waiting> {
        let mut queues = self.queues();
        let queue = queues.by_endpoint.get_mut(&endpoint);
        queue.map(|queue| queue.waiting.drain(..).collect()).unwrap_or_default()
    }

    /// The same of all endpoints.
    pub(super) fn clear_all(&self) -> Vec<Waiting> {
        self.queues().by_endpoint.values_mut().flat_map(|queue| queue.waiting.drain(..)).collect()
    }
}

/// The right to have one attempt under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    all: DeliveryQueue,
    endpoint: Uuid,
    first: Option<Waiting>,
}

impl Slot {
    /// What to send next: the slot goes on with its endpoint's deliveries, unless others
    /// wait for a slot beyond the guaranteed ones.
    pub(super) fn next(&mut self) -> Option<Waiting> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let mut queues = self.all.queues();
        let starved = queues.starved;
        let queue = queues.by_endpoint.get_mut(&self.endpoint)?;
        if queue.busy > queue.slots_max() || (starved && queue.busy > SLOTS_GUARANTEED) {
            return None;
        }
        let next = queue.waiting.pop_front();
        let low = queue.behind && queue.waiting.len() < QUEUED_LOW;
        drop(queues);
        if low {
            self.all.request_claim();
        }
        next
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut queues = self.all.queues();
        queues.stop(self.endpoint);
        let waits =
            queues.by_endpoint.get(&self.endpoint).is_some_and(|queue| !queue.waiting.is_empty());
        let waits = waits || queues.starved;
        let behind = queues.by_endpoint.get(&self.endpoint).is_some_and(|queue| queue.behind);
        drop(queues);
        if waits {
            self.all.0.ready.notify_one();
        }
        if behind {
            self.all.request_claim();
        }
    }
}

#[cfg(test)]
mod tests;
