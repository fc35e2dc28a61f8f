//! How accesses get into the log: queued by requests, appended in batches by one task.
//!
//! Guarantees what the room says. One append has all that has gathered meanwhile: changes
//! that wait share a commit, and reads wait for company. Ends when the last [`Audit`] is
//! dropped, after what was handed in is appended.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::access::{Access, Times};
use crate::clock::Clock;
use crate::event::{ACCESSES_OF, Event};
use crate::log::{AppendError, Log};
use crate::tasks::Tasks;

/// Accesses that may wait to be appended.
const QUEUE_MAX: usize = 8_192;
/// Accesses after which no other one joins an append: readings wait for it meanwhile.
const BATCH_MAX: usize = 500;
/// How long a read waits for company.
pub const BATCH_MS: u64 = 1_000;
/// How long what is told in sums is summed up.
pub const SUM_SECONDS: u64 = 10;
/// Sums at one time; what is of a further kind is passed over.
const SUMS_MAX: usize = 10_000;
/// Of them, those of whom nobody knows; what is of a further address has none.
const SUMS_OF_NOBODY_MAX: usize = 200;
/// How long a change waits for its place in the queue, before anything is done.
const PLACE_MS_MAX: u64 = 5_000;
/// How long an answer waits until its change is on record.
const RECORD_MS_MAX: u64 = 10_000;
/// The pause after an append that failed.
const RETRY_MS: u64 = 500;
/// Appends at one time, of different shards.
const APPENDS: usize = 2;

/// Which reads are recorded. Refusals are, in any case, and who reads these records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// None.
    None,
    /// One in so many; 1 is all.
    OneIn(NonZeroU32),
}

/// An access on its way.
struct Message {
    access: Access,
    at: DateTime<Utc>,
    /// Who waits until it is committed.
    recorded: Option<oneshot::Sender<()>>,
}

/// Where accesses are handed in: cheap to clone.
#[derive(Clone)]
pub struct Audit {
    queue: mpsc::Sender<Message>,
    held: Arc<Held>,
    reads: Reads,
    turn: Arc<AtomicU32>,
    clock: Clock,
}

/// What lies in memory beside the queue.
#[derive(Default)]
struct Held {
    sums: Mutex<Sums>,
    /// Reads of a tenant that found the queue full.
    passed_over: Mutex<HashMap<Arc<str>, u64>>,
}

#[derive(Default)]
struct Sums {
    all: HashMap<Access, Times>,
    of_nobody: usize,
}

/// A change's place in the queue.
pub struct Place(mpsc::OwnedPermit<Message>);

/// Why a change is not on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRecorded {
    /// Nothing was done.
    #[error("too much waits to be recorded: nothing was done, send it again")]
    NoPlace,
    /// It was done.
    #[error(
        "what was asked for may be done, and is not on record yet: look before sending it again"
    )]
    NotYet,
}

impl NotRecorded {
    /// Stable, and the same by every adapter.
    pub fn code(self) -> &'static str {
        match self {
            NotRecorded::NoPlace => "audit_busy",
            NotRecorded::NotYet => "audit_unavailable",
        }
    }
}

/// Starts the task that appends to this log.
pub fn start(log: Log, reads: Reads, clock: Clock, tasks: &Tasks) -> Audit {
    let (queue, queued) = mpsc::channel(QUEUE_MAX);
    let held = Arc::<Held>::default();
    let audit = Audit { queue, held: held.clone(), reads, turn: Arc::default(), clock };
    tasks.spawn("the audit", Recorder { log, queued, held }.run());
    audit
}

impl Audit {
    /// The time, for [`Audit::read`] and the others.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Takes a place for a change, before it is done.
    pub async fn place(&self) -> Result<Place, NotRecorded> {
        let place = self.queue.clone().reserve_owned();
        match timeout(Duration::from_millis(PLACE_MS_MAX), place).await {
            Ok(Ok(place)) => Ok(Place(place)),
            _ => Err(NotRecorded::NoPlace),
        }
    }

    /// A change, committed when this returns.
    pub async fn changed(
        &self,
        place: Place,
        access: Access,
        at: DateTime<Utc>,
    ) -> Result<(), NotRecorded> {
        let (recorded, is_recorded) = oneshot::channel();
        place.0.send(Message { access, at, recorded: Some(recorded) });
        match timeout(Duration::from_millis(RECORD_MS_MAX), is_recorded).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(NotRecorded::NotYet),
        }
    }

    /// A change that was refused, so that nothing was done, or whose answer nobody waits for:
    /// appended soon.
    pub fn noted(&self, place: Place, access: Access, at: DateTime<Utc>) {
        place.0.send(Message { access, at, recorded: None });
    }

    /// A read, unless another one stands for it. `always`: whatever the sampling says.
    pub fn read(&self, access: Access, at: DateTime<Utc>, always: bool) {
        let is_recorded = always
            || match self.reads {
                Reads::None => false,
                Reads::OneIn(n) => {
                    n.get() == 1
                        || self.turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(n.get())
                }
            };
        if !is_recorded {
            return;
        }
        let queued = self.queue.try_send(Message { access, at, recorded: None });
        if let Err(full) = queued {
            self.pass_over(full.into_inner().access.tenant());
        }
    }

    /// What comes often and says little each time: told as a sum.
    pub fn summed(&self, mut access: Access, at: DateTime<Utc>) {
        let mut sums = self.held.sums.lock();
        if access.who.is_none() && sums.of_nobody >= SUMS_OF_NOBODY_MAX {
            access.address = None;
        }
        if let Some(times) = sums.all.get_mut(&access) {
            times.last = times.last.max(at);
            times.count += 1;
        } else if sums.all.len() < SUMS_MAX {
            sums.of_nobody += usize::from(access.who.is_none());
            sums.all.insert(access, Times::once(at));
        } else {
            drop(sums);
            self.pass_over(access.tenant());
        }
    }

    /// Somebody has signed in or out, or was refused: on record when this returns.
    pub async fn signed(&self, access: Access) -> Result<(), NotRecorded> {
        let at = self.now();
        if access.who.is_none() {
            self.summed(access, at);
            return Ok(());
        }
        self.changed(self.place().await?, access, at).await
    }

    fn pass_over(&self, tenant: Arc<str>) {
        metrics::counter!("vitals_audit_passed_over_total").increment(1);
        *self.held.passed_over.lock().entry(tenant).or_default() += 1;
    }
}

/// The task.
struct Recorder {
    log: Log,
    queued: mpsc::Receiver<Message>,
    held: Arc<Held>,
}

/// What goes into one shard.
#[derive(Default)]
struct Batch {
    events: Vec<Event>,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Recorder {
    async fn run(mut self) {
        let mut summed = Instant::now();
        loop {
            let due = summed + Duration::from_secs(SUM_SECONDS);
            let mut messages = Vec::new();
            let first = timeout_at(due, self.queued.recv_many(&mut messages, BATCH_MAX)).await;
            let is_over = first == Ok(0);
            if !is_over {
                self.gather(&mut messages).await;
            }
            let mut batches = BTreeMap::new();
            for Message { access, at, recorded } in messages {
                self.add(&mut batches, access, Times::once(at), recorded);
            }
            if is_over || Instant::now() >= due {
                summed = Instant::now();
                let sums = std::mem::take(&mut *self.held.sums.lock());
                for (access, times) in sums.all {
                    self.add(&mut batches, access, times, None);
                }
            }
            self.add_passed_over(&mut batches);
            let appends = batches.into_iter().map(|(shard, batch)| self.append(shard, batch));
            futures_util::stream::iter(appends).for_each_concurrent(APPENDS, |append| append).await;
            if is_over {
                return;
            }
        }
    }

    /// Until there are enough, or it is time; whoever waits for theirs is not made to.
    async fn gather(&mut self, messages: &mut Vec<Message>) {
        let until = Instant::now() + Duration::from_millis(BATCH_MS);
        while messages.len() < BATCH_MAX && messages.iter().all(|m| m.recorded.is_none()) {
            let more = BATCH_MAX - messages.len();
            match timeout_at(until, self.queued.recv_many(messages, more)).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn add(
        &self,
        batches: &mut BTreeMap<i16, Batch>,
        access: Access,
        times: Times,
        recorded: Option<oneshot::Sender<()>>,
    ) {
        // All of a tenant's in one shard: one append has them, and one look finds them.
        let shard = self.log.shard_of(&access.tenant(), ACCESSES_OF);
        let batch = batches.entry(shard).or_default();
        batch.events.push(access.event(times));
        batch.waiting.extend(recorded);
    }

    fn add_passed_over(&self, batches: &mut BTreeMap<i16, Batch>) {
        let passed_over = std::mem::take(&mut *self.held.passed_over.lock());
        for (tenant, count) in passed_over {
            let now = batches.values().flat_map(|batch| &batch.events).map(|e| e.occurred_at).max();
            // Something was recorded with it, or the queue would not have been full.
            let Some(now) = now else {
                *self.held.passed_over.lock().entry(tenant).or_default() += count;
                continue;
            };
            let times = Times { first: now, last: now, count };
            self.add(batches, Access::passed_over(tenant), times, None);
        }
    }

    /// Appends in parts that hold up nobody, each until it is there; or until this process
    /// ends and the log still cannot be written.
    async fn append(&self, shard: i16, batch: Batch) {
        let mut failed = false;
        for part in batch.events.chunks(BATCH_MAX) {
            while let Err(error) = self.log.append(shard, part).await {
                metrics::counter!("vitals_audit_append_errors_total").increment(1);
                tracing::error!(shard, accesses = part.len(), %error, "accesses are not recorded yet");
                if !may_succeed(&error) || (failed && self.queued.is_closed()) {
                    tracing::error!(shard, accesses = part.len(), "accesses were not recorded");
                    return;
                }
                failed = true;
                tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
            }
        }
        metrics::counter!("vitals_audit_recorded_total").increment(batch.events.len() as u64);
        for waiting in batch.waiting {
            // Whoever gave up has been told so.
            let _gone = waiting.send(());
        }
    }
}

/// Whether the same append may be taken another time.
fn may_succeed(error: &AppendError) -> bool {
    match error {
        AppendError::Database(sqlx::Error::Database(error)) => {
            !error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
        }
        AppendError::Database(_) | AppendError::NoPartition | AppendError::Restored => true,
        _ => false,
    }
}
