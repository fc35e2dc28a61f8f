//! The group-commit writer: one task a shard.
//!
//! Guarantees one append at a time, an answer only after its commit, and that a
//! batch that PostgreSQL refuses is taken apart, so that one bad request does not
//! take its neighbours along. While a commit is under way the next batch gathers by
//! itself; small requests wait for their turn besides, for [`TURN_WAIT`] at most.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::IngestError;
use crate::event::Event;
use crate::log::{AppendError, Held, Log};

/// Readings after which no further request joins a transaction. Larger ones gain nothing
/// and make others wait (measured: ARCHITECTURE, "The append").
const READINGS_PER_COMMIT_MAX: usize = 1_000;

/// A request of so many readings waits for no turn. Of smaller ones more transactions at
/// once than there are cores only means that each has fewer of them (measured:
/// ARCHITECTURE, "The append").
const TURN_READINGS_MIN: usize = 8;

/// The longest wait for a turn.
const TURN_WAIT: Duration = Duration::from_millis(10);

/// How long a connection waits for the next batch. Giving it back costs two round trips,
/// and for so short a time the pool would not test it either.
const HELD: Duration = Duration::from_secs(1);

/// A part of a request, all of one shard.
pub(super) struct Request {
    pub events: Vec<Event>,
    /// How many were new.
    pub reply: oneshot::Sender<Result<usize, IngestError>>,
    /// Its place in the queue, given back with the request.
    pub _room: OwnedSemaphorePermit,
}

/// Writes until nobody can hand in any more.
pub(super) async fn run(
    log: Log,
    shard: i16,
    turns: Arc<Semaphore>,
    mut requests: mpsc::UnboundedReceiver<Request>,
) {
    let mut held: Held = None;
    // Nothing, so that the first reading finds a connection, and PostgreSQL its plans.
    if let Err(error) = log.append_on(&mut held, shard, &[]).await {
        tracing::debug!(shard, %error, "the first reading will have to wait for a connection");
    }
    loop {
        let next = requests.recv();
        let first = match held {
            None => next.await,
            Some(_) => match timeout(HELD, next).await {
                Ok(first) => first,
                Err(_) => {
                    held = None;
                    continue;
                }
            },
        };
        let Some(first) = first else { return };
        // What comes while it waits for its turn joins it. A shard that cannot be written
        // must not keep the others' turns, so nobody waits for long.
        let _turn = match first.events.len() {
            1..TURN_READINGS_MIN => timeout(TURN_WAIT, turns.acquire()).await.ok(),
            _ => None,
        };
        let mut size = first.events.len();
        let mut batch = vec![first];
        while size < READINGS_PER_COMMIT_MAX
            && let Ok(next) = requests.try_recv()
        {
            size += next.events.len();
            batch.push(next);
        }
        write(&log, &mut held, shard, batch).await;
    }
}

async fn write(log: &Log, held: &mut Held, shard: i16, mut batch: Vec<Request>) {
    let lengths: Vec<usize> = batch.iter().map(|r| r.events.len()).collect();
    let mut events = Vec::with_capacity(lengths.iter().sum());
    for request in &mut batch {
        events.append(&mut request.events);
    }
    match log.append_on(held, shard, &events).await {
        Ok(appended) => {
            metrics::counter!("vitals_readings_stored_total").increment(appended.stored() as u64);
            let mut positions = appended.positions.iter();
            for (request, length) in batch.into_iter().zip(lengths) {
                let stored = positions.by_ref().take(length).flatten().count();
                answer(request, Ok(stored));
            }
        }
        Err(error) if batch.len() > 1 && is_about_the_data(&error) => {
            let mut events = events.into_iter();
            for (mut request, length) in batch.into_iter().zip(lengths) {
                request.events = events.by_ref().take(length).collect();
                let result = log.append_on(held, shard, &request.events).await;
                answer(request, result.map(|a| a.stored()).map_err(|e| unavailable(shard, &e)));
            }
        }
        Err(error) => {
            let error = unavailable(shard, &error);
            batch.into_iter().for_each(|request| answer(request, Err(error.clone())));
        }
    }
}

/// A caller that went away does not want its answer; its readings are stored.
fn answer(request: Request, result: Result<usize, IngestError>) {
    if request.reply.send(result).is_err() {
        tracing::debug!("the caller went away before its commit was acknowledged");
    }
}

fn unavailable(shard: i16, error: &AppendError) -> IngestError {
    metrics::counter!("vitals_append_errors_total").increment(1);
    tracing::error!(shard, %error, "a batch was not written; its senders were told");
    IngestError::Unavailable
}

/// Data exceptions and violated constraints: another batch may well succeed.
fn is_about_the_data(error: &AppendError) -> bool {
    match error {
        AppendError::Database(sqlx::Error::Database(e)) => {
            e.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
        }
        AppendError::TooMany(_) | AppendError::Archived => true,
        AppendError::Database(_) | AppendError::NoShard(_) => false,
    }
}
