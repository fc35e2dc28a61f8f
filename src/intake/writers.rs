//! The writers of the log, one a shard, and the bounded queues in front of them.
//!
//! Guarantees that what [`Writers::store_events`] acknowledged is committed, and that the
//! queue in front of the log is bounded: when it is full, the caller is told at
//! once, or after a while if it can wait. A full queue stores nothing of a batch. Small
//! requests have a queue of their own, so that a bedside neither waits behind a gateway's
//! backlog nor is refused because of it. Does not guarantee that a batch which took too
//! long was not stored: it may be sent again, the log keeps each reading once. Does not
//! judge: [`super::Intake`] does, and calls this alone.

mod writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::devices::{self, Device};
use crate::event::Event;
use crate::log::{Archived, Log, answered_soon};
use crate::tasks::Tasks;
use crate::trace;

pub use self::writer::WritersError;

/// A request of so many readings is large.
const LARGE_READINGS_MIN: usize = 8;
/// Readings of large requests that wait for a commit at one time, over all shards.
pub const READINGS_QUEUED_MAX: usize = 100_000;
/// The same of small requests.
const SMALL_READINGS_QUEUED_MAX: usize = 20_000;
/// The longest anybody waits for a commit.
const COMMIT_MS_MAX: u64 = 10_000;
/// The longest that who can wait waits for room in the queue.
const ROOM_MS_MAX: u64 = 20_000;
/// Transactions of small requests at one time, however few cores there are.
const TURNS_MIN: usize = 2;
/// Between two looks for room.
const ROOM_PAUSE_MS: u64 = 50;

/// What became of readings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// How many are new.
    pub stored: usize,
    /// Which of them the log had already, in order, counted from 0.
    pub duplicates: Vec<usize>,
}

/// Events of one shard, and their indices in the whole batch.
#[derive(Default)]
struct OfShard {
    events: Vec<Event>,
    indices: Vec<usize>,
}

/// The writers of all shards: cheap to clone.
#[derive(Clone)]
pub struct Writers(Arc<Inner>);

struct Inner {
    log: Log,
    small: Queues,
    large: Queues,
}

/// A queue to every shard's writer, with the room in all of them.
struct Queues {
    writers: Vec<mpsc::UnboundedSender<writer::Request>>,
    room: Arc<Semaphore>,
}

impl Queues {
    fn new(readings_max: usize) -> Queues {
        Queues { writers: Vec::new(), room: Arc::new(Semaphore::new(readings_max)) }
    }

    fn another_writer(&mut self) -> mpsc::UnboundedReceiver<writer::Request> {
        let (sender, requests) = mpsc::unbounded_channel();
        self.writers.push(sender);
        requests
    }
}

impl Writers {
    /// Starts one writer a shard in `tasks`. They end when the last clone of this is gone
    /// and all that was handed in is written.
    pub fn start(log: &Log, tasks: &Tasks) -> Writers {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Arc::new(Semaphore::new(cores.max(TURNS_MIN)));
        let (mut small, mut large) =
            (Queues::new(SMALL_READINGS_QUEUED_MAX), Queues::new(READINGS_QUEUED_MAX));
        for shard in log.shards() {
            let queue = writer::Queue::new(small.another_writer(), large.another_writer());
            let run = writer::run(log.clone(), shard, turns.clone(), queue);
            tasks.spawn("a writer of the log", run);
        }
        Writers(Arc::new(Inner { log: log.clone(), small, large }))
    }

    /// What they write to.
    pub(super) fn log(&self) -> &Log {
        &self.0.log
    }

    /// The months that take no readings, as this process knows them.
    pub fn archived(&self) -> Archived {
        self.0.log.archived()
    }

    /// A device as the log has it now; none of which nothing was said.
    pub async fn device(
        &self,
        tenant: &str,
        device_id: &str,
    ) -> Result<Option<Device>, WritersError> {
        let ids = [device_id.to_owned()];
        let found = answered_soon(devices::find(&self.0.log, tenant, &ids, None)).await;
        let mut found = found.map_err(|error| {
            tracing::error!(%error, "a device was not looked up; its sender was told");
            WritersError::Unavailable
        })?;
        Ok(found.remove(device_id))
    }

    /// Stores events and returns after the commit. A full queue stores none of them.
    pub async fn store_events(&self, events: Vec<Event>) -> Result<Written, WritersError> {
        let room = self.room(&events)?;
        self.write(room, events).await
    }

    /// [`Writers::store_events`] for who can wait: a full queue is tried again until there is
    /// room, [`ROOM_MS_MAX`] is over, or `stop` is cancelled.
    ///
    /// It looks again and does not line up: who waits here is a recording, and who does
    /// not may be a bedside.
    pub async fn store_when_room(
        &self,
        events: Vec<Event>,
        stop: &CancellationToken,
    ) -> Result<Written, WritersError> {
        let until = Instant::now() + Duration::from_millis(ROOM_MS_MAX);
        let room = loop {
            match self.room(&events) {
                Ok(room) => break room,
                Err(full) if stop.is_cancelled() || Instant::now() >= until => return Err(full),
                Err(_) => tokio::select! {
                    () = stop.cancelled() => {}
                    () = sleep(Duration::from_millis(ROOM_PAUSE_MS)) => {}
                },
            }
        };
        self.write(room, events).await
    }

    fn queues(&self, readings: usize) -> &Queues {
        if readings < LARGE_READINGS_MIN { &self.0.small } else { &self.0.large }
    }

    /// Room for all or for none.
    fn room(&self, events: &[Event]) -> Result<OwnedSemaphorePermit, WritersError> {
        let room = u32::try_from(events.len()).ok().and_then(|size| {
            let room = self.queues(events.len()).room.clone();
            room.try_acquire_many_owned(size).ok()
        });
        room.ok_or_else(|| {
            metrics::counter!("vitals_queue_full_total").increment(1);
            WritersError::QueueFull
        })
    }

    /// Everything is handed in before anything is awaited: who goes away while it
    /// waits leaves nothing half done.
    async fn write(
        &self,
        mut room: OwnedSemaphorePermit,
        events: Vec<Event>,
    ) -> Result<Written, WritersError> {
        let count = events.len();
        let mut replies = Vec::new();
        for (writer, OfShard { events, indices }) in self.by_shard(events) {
            let room = room.split(events.len()).ok_or(WritersError::QueueFull)?;
            let (reply, answer) = oneshot::channel();
            writer
                .send(writer::Request { events, reply, append: trace::append(), _room: room })
                .map_err(|_| WritersError::Unavailable)?;
            replies.push((answer, indices));
        }
        let duplicates = async {
            let mut duplicates = Vec::new();
            for (answer, indices) in replies {
                let of_shard = answer.await.map_err(|_| WritersError::Unavailable)??;
                duplicates.extend(of_shard.into_iter().map(|nth| indices[nth]));
            }
            Ok(duplicates)
        };
        let limit = Duration::from_millis(COMMIT_MS_MAX);
        let duplicates = tokio::time::timeout(limit, duplicates).await;
        let duplicates = duplicates.map_err(|_| WritersError::Unavailable)??;
        let mut duplicates: Vec<usize> = duplicates;
        duplicates.sort_unstable();
        Ok(Written { stored: count - duplicates.len(), duplicates })
    }

    fn by_shard(
        &self,
        events: Vec<Event>,
    ) -> impl Iterator<Item = (&mpsc::UnboundedSender<writer::Request>, OfShard)> {
        let writers = &self.queues(events.len()).writers;
        let mut shards: Vec<OfShard> = writers.iter().map(|_| OfShard::default()).collect();
        for (index, event) in events.into_iter().enumerate() {
            let shard = self.0.log.shard_of(&event.tenant, &event.patient_id);
            if let Some(of_shard) = usize::try_from(shard).ok().and_then(|s| shards.get_mut(s)) {
                of_shard.events.push(event);
                of_shard.indices.push(index);
            }
        }
        writers.iter().zip(shards).filter(|(_, of_shard)| !of_shard.events.is_empty())
    }
}
