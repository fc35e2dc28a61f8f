//! The desk: claimed deliveries of this process, in one lane an endpoint, until they are
//! sent.
//!
//! Guarantees that an endpoint has at most [`SLOTS_PER_ENDPOINT_MAX`] attempts under way
//! and always may have [`SLOTS_GUARANTEED`], whatever others do; that what goes beyond
//! those is bounded for a tenant and for the process; that a slot comes free also when its
//! attempt panics. Holds nothing that is not in the database as well: what is lost with
//! the process comes back when its lease ends.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

use super::claim::{Claimed, Made, Room, Waiting};

/// Attempts under way to one endpoint at one time.
pub const SLOTS_PER_ENDPOINT_MAX: usize = 16;
/// Attempts that an endpoint may always have under way, and all that one has which failed
/// last.
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

/// Shared by the fan-out, which puts deliveries on it, and the deliverer. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Desk(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    book: Mutex<Book>,
    /// Something waits for its attempt.
    bell: Notify,
    /// Something may be there to claim.
    more: Notify,
}

#[derive(Debug, Default)]
struct Book {
    lanes: HashMap<Uuid, Lane>,
    /// Attempts beyond the guaranteed ones, in all and by tenant.
    beyond: usize,
    beyond_of: HashMap<Arc<str>, usize>,
    /// Somebody could not start for want of these.
    starved: bool,
}

#[derive(Debug)]
struct Lane {
    tenant: Arc<str>,
    busy: usize,
    waiting: VecDeque<Waiting>,
    /// More of it is due in the database.
    behind: bool,
    failures: u32,
    failing_since: Option<Instant>,
}

impl Lane {
    fn new(tenant: &str) -> Lane {
        let (busy, waiting, failures) = (0, VecDeque::new(), 0);
        Lane { tenant: tenant.into(), busy, waiting, behind: false, failures, failing_since: None }
    }

    fn is_idle(&self) -> bool {
        self.busy == 0 && self.waiting.is_empty() && !self.behind && self.failures == 0
    }

    fn slots_max(&self) -> usize {
        if self.failures > 0 { SLOTS_GUARANTEED } else { SLOTS_PER_ENDPOINT_MAX }
    }

    /// How many more may wait here; of an endpoint that fails, none but what it can send.
    fn room(&self) -> usize {
        let most = if self.failures > 0 { SLOTS_GUARANTEED } else { QUEUED_PER_ENDPOINT_MAX };
        most.saturating_sub(self.waiting.len() + if self.failures > 0 { self.busy } else { 0 })
    }
}

impl Book {
    /// Takes a slot for an endpoint, if it may have one.
    fn start(&mut self, endpoint: Uuid) -> Option<Waiting> {
        let lane = self.lanes.get_mut(&endpoint)?;
        if lane.waiting.is_empty() || lane.busy >= lane.slots_max() {
            return None;
        }
        if lane.busy >= SLOTS_GUARANTEED {
            let of_tenant = self.beyond_of.get(&lane.tenant).copied().unwrap_or_default();
            if self.beyond >= IN_FLIGHT_MAX || of_tenant >= IN_FLIGHT_OF_TENANT_MAX {
                self.starved = true;
                return None;
            }
            self.beyond += 1;
            *self.beyond_of.entry(lane.tenant.clone()).or_default() += 1;
        }
        lane.busy += 1;
        lane.waiting.pop_front()
    }

    fn stop(&mut self, endpoint: Uuid) {
        let Some(lane) = self.lanes.get_mut(&endpoint) else { return };
        if lane.busy > SLOTS_GUARANTEED {
            self.beyond = self.beyond.saturating_sub(1);
            if let Some(of_tenant) = self.beyond_of.get_mut(&lane.tenant) {
                *of_tenant -= 1;
                if *of_tenant == 0 {
                    self.beyond_of.remove(&lane.tenant);
                }
            }
        }
        lane.busy = lane.busy.saturating_sub(1);
        if lane.is_idle() {
            self.lanes.remove(&endpoint);
        }
    }
}

impl Desk {
    fn book(&self) -> MutexGuard<'_, Book> {
        // Whole after every statement; a panic elsewhere did not spoil it.
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something may be due in the database. A hint, as every wake-up.
    pub fn look(&self) {
        self.0.more.notify_one();
    }

    pub(super) async fn told_to_look(&self) {
        self.0.more.notified().await;
    }

    /// Waits until something may be started.
    pub(super) async fn heard(&self) {
        self.0.bell.notified().await;
    }

    /// How much a claim may take.
    pub fn room(&self) -> Room {
        self.rooms(|lane| lane.room())
    }

    /// How much a fan-out may claim of what it makes: nothing where older ones wait in the
    /// database, which would be overtaken again and again.
    pub fn room_for_new(&self) -> Room {
        self.rooms(|lane| if lane.behind || lane.failures > 0 { 0 } else { lane.room() })
    }

    fn rooms(&self, of: impl Fn(&Lane) -> usize) -> Room {
        let book = self.book();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let (endpoints, each) =
            book.lanes.iter().map(|(endpoint, lane)| (*endpoint, count(of(lane)))).unzip();
        let others = count(QUEUED_PER_ENDPOINT_MAX);
        Room { endpoints, each, others, in_all: count(CLAIMED_AT_ONCE_MAX) }
    }

    /// Takes what a fan-out made.
    pub fn made(&self, made: Vec<Made>) {
        let mut book = self.book();
        let mut unclaimed = false;
        for delivery in made {
            match delivery {
                Made::Claimed(delivery) => {
                    let lane = book.lanes.entry(delivery.endpoint_id);
                    let lane = lane.or_insert_with(|| Lane::new(&delivery.tenant));
                    lane.waiting.push_back(Waiting::new(delivery));
                }
                Made::Waits { endpoint_id } => match book.lanes.get_mut(&endpoint_id) {
                    // Looked for when something of it ends: a claim now would be in vain.
                    Some(lane) if lane.room() == 0 => lane.behind = true,
                    _ => unclaimed = true,
                },
            }
        }
        drop(book);
        self.0.bell.notify_one();
        if unclaimed {
            self.look();
        }
    }

    /// Takes what was claimed for `room`.
    pub(super) fn claimed(&self, room: &Room, mut claimed: Vec<Claimed>) {
        // An update returns its rows in any order.
        claimed.sort_unstable_by_key(|delivery| delivery.sequence);
        let mut book = self.book();
        let full = i64::try_from(claimed.len()).unwrap_or(i64::MAX) >= room.in_all;
        let mut counts: HashMap<Uuid, i64> = HashMap::new();
        for delivery in claimed {
            *counts.entry(delivery.endpoint_id).or_default() += 1;
            let lane = book.lanes.entry(delivery.endpoint_id);
            let lane = lane.or_insert_with(|| Lane::new(&delivery.tenant));
            lane.waiting.push_back(Waiting::new(delivery));
        }
        let asked: HashMap<&Uuid, i64> =
            room.endpoints.iter().zip(room.each.iter().copied()).collect();
        book.lanes.retain(|endpoint, lane| {
            let asked = asked.get(endpoint).copied().unwrap_or(room.others);
            let got = counts.get(endpoint).copied().unwrap_or_default();
            // What nothing was asked of is as it was.
            lane.behind = if asked > 0 { got >= asked || (full && got > 0) } else { lane.behind };
            !lane.is_idle()
        });
        drop(book);
        self.0.bell.notify_one();
    }

    /// Starts what may start: one attempt of each endpoint after the other.
    pub(super) fn start(&self) -> Vec<Slot> {
        let mut book = self.book();
        book.starved = false;
        let mut ready: Vec<Uuid> =
            book.lanes.iter().filter(|(_, l)| !l.waiting.is_empty()).map(|(id, _)| *id).collect();
        let mut slots = Vec::new();
        while !ready.is_empty() {
            ready.retain(|endpoint| match book.start(*endpoint) {
                Some(first) => {
                    let (desk, endpoint) = (self.clone(), *endpoint);
                    slots.push(Slot { desk, endpoint, first: Some(first) });
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
        let mut book = self.book();
        let Some(lane) = book.lanes.get_mut(&endpoint) else { return false };
        if delivered {
            (lane.failures, lane.failing_since) = (0, None);
            return false;
        }
        lane.failures += 1;
        let since = *lane.failing_since.get_or_insert(now);
        let long = now - since >= Duration::from_millis(FAILING_MS_MIN);
        let open = at_once || (lane.failures >= FAILURES_TO_OPEN && long);
        if open {
            (lane.failures, lane.failing_since) = (0, None);
        }
        open
    }

    /// What waits for an endpoint, for giving it back.
    pub(super) fn clear(&self, endpoint: Uuid) -> Vec<Waiting> {
        let mut book = self.book();
        let lane = book.lanes.get_mut(&endpoint);
        lane.map(|lane| lane.waiting.drain(..).collect()).unwrap_or_default()
    }

    /// The same of all endpoints.
    pub(super) fn clear_all(&self) -> Vec<Waiting> {
        self.book().lanes.values_mut().flat_map(|lane| lane.waiting.drain(..)).collect()
    }
}

/// The right to have one attempt under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    desk: Desk,
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
        let mut book = self.desk.book();
        let starved = book.starved;
        let lane = book.lanes.get_mut(&self.endpoint)?;
        if lane.busy > lane.slots_max() || (starved && lane.busy > SLOTS_GUARANTEED) {
            return None;
        }
        let next = lane.waiting.pop_front();
        let low = lane.behind && lane.waiting.len() < QUEUED_LOW;
        drop(book);
        if low {
            self.desk.look();
        }
        next
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut book = self.desk.book();
        book.stop(self.endpoint);
        let waits = book.lanes.get(&self.endpoint).is_some_and(|l| !l.waiting.is_empty());
        let waits = waits || book.starved;
        let behind = book.lanes.get(&self.endpoint).is_some_and(|l| l.behind);
        drop(book);
        if waits {
            self.desk.0.bell.notify_one();
        }
        if behind {
            self.desk.look();
        }
    }
}

#[cfg(test)]
mod tests;
