//! Ingest: the one door for readings, whatever brought them.
//!
//! Guarantees that what [`Ingest::store`] acknowledged is committed, and that the
//! queue in front of the log is bounded: when it is full, the caller is told at
//! once. Does not guarantee that a refused or timed-out batch was not stored: it
//! may be sent again, the log keeps each reading once.

pub mod file;
mod parse;
mod reading;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::event::Event;
use crate::log::Log;
use crate::tasks::Tasks;

pub use parse::{ParseError, Parsed, READINGS_PER_REQUEST_MAX, parse};
pub use reading::{AHEAD_SECONDS_MAX, CONTEXT_BYTES_MAX, Draft, Narrowing, Rejected, accept};

/// Readings that wait for a commit at one time, over all shards.
pub const READINGS_QUEUED_MAX: usize = 100_000;
/// The longest anybody waits for a commit.
const COMMIT_MS_MAX: u64 = 10_000;

/// Why nothing was acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IngestError {
    /// More readings wait than may.
    #[error("{READINGS_QUEUED_MAX} readings are waiting to be written: send again in a second")]
    QueueFull,
    /// The log cannot be written now.
    #[error("the log cannot be written at the moment: send again, nothing is stored twice")]
    Unavailable,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// New readings.
    pub stored: usize,
    /// Readings that the log had already.
    pub duplicates: usize,
}

/// The door: cheap to clone.
#[derive(Clone)]
pub struct Ingest {
    log: Log,
    writers: Arc<[mpsc::UnboundedSender<writer::Request>]>,
    room: Arc<Semaphore>,
}

impl Ingest {
    /// Starts one writer a shard in `tasks`. They end when the last clone of the
    /// door is gone and all that was handed in is written.
    pub fn start(log: &Log, tasks: &Tasks) -> Ingest {
        let writers = log
            .shards()
            .map(|shard| {
                let (sender, requests) = mpsc::unbounded_channel();
                tasks.spawn("a writer of the log", writer::run(log.clone(), shard, requests));
                sender
            })
            .collect();
        Ingest { log: log.clone(), writers, room: Arc::new(Semaphore::new(READINGS_QUEUED_MAX)) }
    }

    /// Stores events and returns after the commit.
    pub async fn store(&self, events: Vec<Event>) -> Result<Stored, IngestError> {
        let count = events.len();
        let mut replies = Vec::new();
        for (writer, events) in self.by_shard(events) {
            let size = u32::try_from(events.len()).map_err(|_| IngestError::QueueFull)?;
            let room = self
                .room
                .clone()
                .try_acquire_many_owned(size)
                .map_err(|_| IngestError::QueueFull)?;
            let (reply, answer) = oneshot::channel();
            writer
                .send(writer::Request { events, reply, _room: room })
                .map_err(|_| IngestError::Unavailable)?;
            replies.push(answer);
        }
        let mut stored = 0;
        for answer in replies {
            let answer = tokio::time::timeout(Duration::from_millis(COMMIT_MS_MAX), answer).await;
            stored += answer
                .map_err(|_| IngestError::Unavailable)?
                .map_err(|_| IngestError::Unavailable)??;
        }
        Ok(Stored { stored, duplicates: count - stored })
    }

    fn by_shard(
        &self,
        events: Vec<Event>,
    ) -> impl Iterator<Item = (&mpsc::UnboundedSender<writer::Request>, Vec<Event>)> {
        let mut shards: Vec<Vec<Event>> = vec![Vec::new(); self.writers.len()];
        for event in events {
            let shard = self.log.shard_of(&event.tenant, &event.patient_id);
            if let Some(of_shard) = usize::try_from(shard).ok().and_then(|s| shards.get_mut(s)) {
                of_shard.push(event);
            }
        }
        self.writers.iter().zip(shards).filter(|(_, events)| !events.is_empty())
    }
}
