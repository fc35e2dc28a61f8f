//! The group-commit writer: one task a shard.
//!
//! Guarantees one append at a time, an answer only after its commit, and that a
//! batch that PostgreSQL refuses is taken apart, so that one bad request does not
//! take its neighbours along. While a commit is under way the next batch gathers by
//! itself. Small and large requests are never in one transaction, and when both wait they
//! alternate: a small one waits for one commit of large ones, however many there are. Small
//! ones wait for their turn besides, for [`TURN_WAIT`] at most.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::event::Event;
use crate::log::{AppendError, GuardedConnection, Log, TracedEvents};
use crate::trace::{self, Moment, Span, SpanKind};

/// Why nothing was acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WritersError {
    /// More readings wait than may.
    #[error("as many readings as may are waiting to be written: send again in a second")]
    QueueFull,
    /// The log cannot be written now.
    #[error("the log cannot be written at the moment: send again, nothing is stored twice")]
    Unavailable,
}

impl WritersError {
    /// Stable, and the same by every adapter.
    pub fn code(&self) -> &'static str {
        match self {
            WritersError::QueueFull => "queue_full",
            WritersError::Unavailable => "log_unavailable",
        }
    }
}

/// Readings after which no further request joins a transaction. Larger ones gain nothing
/// and make others wait (decision 0005).
const READINGS_PER_COMMIT_MAX: usize = 1_000;

/// The longest wait for a turn. Of small requests more transactions at once than there are
/// cores only means that each has fewer of them (decision 0005). Large
/// ones wait for none.
const TURN_WAIT: Duration = Duration::from_millis(10);

/// How long a connection waits for the next batch. Giving it back costs two round trips,
/// and for so short a time the pool would not test it either.
const HELD: Duration = Duration::from_secs(1);

/// A part of a request, all of one shard.
pub(super) struct Request {
    pub events: Vec<Event>,
    /// Which of them the log had already.
    pub reply: oneshot::Sender<Result<Vec<usize>, WritersError>>,
    /// The step from being handed in to the commit, if it is recorded.
    pub append: Option<Span>,
    /// Its place in the queue, given back with the request.
    pub _room: OwnedSemaphorePermit,
}

/// Which of two queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Small,
    Large,
}

/// What waits for a writer.
pub(super) struct Queue {
    small: mpsc::UnboundedReceiver<Request>,
    large: mpsc::UnboundedReceiver<Request>,
    /// Whose turn it is when both wait.
    next: Size,
}

impl Queue {
    pub(super) fn new(
        small: mpsc::UnboundedReceiver<Request>,
        large: mpsc::UnboundedReceiver<Request>,
    ) -> Queue {
        Queue { small, large, next: Size::Small }
    }

    /// The next request, of the size whose turn it is if there is one; `None` when nobody
    /// can hand in any more. Nothing is lost when it is not waited for.
    async fn first(&mut self) -> Option<(Size, Request)> {
        if self.next == Size::Large
            && let Ok(request) = self.large.try_recv()
        {
            self.next = Size::Small;
            return Some((Size::Large, request));
        }
        let (size, request) = tokio::select! {
            biased;
            Some(request) = self.small.recv() => (Size::Small, request),
            Some(request) = self.large.recv() => (Size::Large, request),
            else => return None,
        };
        self.next = if size == Size::Small { Size::Large } else { Size::Small };
        Some((size, request))
    }

    /// One more of a size, if it is there.
    fn more(&mut self, size: Size) -> Option<Request> {
        match size {
            Size::Small => self.small.try_recv().ok(),
            Size::Large => self.large.try_recv().ok(),
        }
    }
}

/// Writes until the last sender is gone.
pub(super) async fn run(log: Log, shard: i16, turns: Arc<Semaphore>, mut queue: Queue) {
    let mut held = GuardedConnection::default();
    // Nothing, so that the first reading finds a connection, and PostgreSQL its plans.
    if let Err(error) = log.append_on(&mut held, shard, &[], &[]).await {
        tracing::debug!(shard, %error, "the first reading will have to wait for a connection");
    }
    loop {
        let next = queue.first();
        let first = if held.is_some() {
            let Ok(first) = timeout(HELD, next).await else {
                held.give_back();
                continue;
            };
            first
        } else {
            next.await
        };
        let Some((size, first)) = first else { return };
        // What comes while it waits for its turn joins it. A shard that cannot be written
        // must not keep the others' turns, so no request waits for long.
        let _turn = match size {
            Size::Small => timeout(TURN_WAIT, turns.acquire()).await.ok(),
            Size::Large => None,
        };
        let mut readings = first.events.len();
        let mut batch = vec![first];
        while readings < READINGS_PER_COMMIT_MAX
            && let Some(next) = queue.more(size)
        {
            readings += next.events.len();
            batch.push(next);
        }
        write(&log, &mut held, shard, batch).await;
    }
}

async fn write(log: &Log, held: &mut GuardedConnection, shard: i16, mut batch: Vec<Request>) {
    let (traced, commit) = (traced_of(&batch), commit(&mut batch, shard));
    let lengths: Vec<usize> = batch.iter().map(|r| r.events.len()).collect();
    let mut events = Vec::with_capacity(lengths.iter().sum());
    for request in &mut batch {
        events.append(&mut request.events);
    }
    let appended = log.append_on(held, shard, &events, &traced).await;
    drop(commit);
    match appended {
        Ok(appended) => {
            metrics::counter!("vitals_readings_stored_total").increment(appended.stored() as u64);
            let mut positions = appended.positions.iter();
            for (request, length) in batch.into_iter().zip(lengths) {
                answer(request, Ok(duplicates(positions.by_ref().take(length))));
            }
        }
        Err(error) if batch.len() > 1 && is_about_the_data(&error) => {
            let mut events = events.into_iter();
            for (mut request, length) in batch.into_iter().zip(lengths) {
                request.events = events.by_ref().take(length).collect();
                let traced = traced_of(std::slice::from_ref(&request));
                let result = log.append_on(held, shard, &request.events, &traced).await;
                let result = result.map(|appended| duplicates(appended.positions.iter()));
                answer(request, result.map_err(|error| unavailable(shard, &error)));
            }
        }
        Err(error) => {
            let error = unavailable(shard, &error);
            batch.into_iter().for_each(|request| answer(request, Err(error.clone())));
        }
    }
}

/// Which events of a batch are traced.
fn traced_of(batch: &[Request]) -> Vec<TracedEvents> {
    let (mut traced, mut before) = (Vec::new(), 0);
    for request in batch {
        let last = before + request.events.len() as i32;
        traced.extend(request.append.as_ref().map(|append| TracedEvents {
            first: before + 1,
            last,
            context: append.context(),
        }));
        before = last;
    }
    traced
}

/// The step that many requests share: it follows from the first of those that are recorded,
/// and is linked with the others.
fn commit(batch: &mut [Request], shard: i16) -> Option<Span> {
    if !trace::is_on() {
        return None;
    }
    let (requests, readings) = (batch.len(), batch.iter().map(|r| r.events.len()).sum::<usize>());
    let mut appends = batch.iter_mut().filter_map(|request| {
        let append = request.append.as_mut()?;
        append.set("vitals.shard", i64::from(shard));
        append.set("vitals.readings", request.events.len() as i64);
        Some(append)
    });
    let parent = appends.next()?.context();
    let mut commit = trace::child(&parent, "commit", SpanKind::Client, Moment::now())?;
    commit.set("db.system.name", "postgresql");
    commit.set("vitals.requests", requests as i64);
    commit.set("vitals.readings", readings as i64);
    for append in appends {
        commit.link(&append.context());
        append.link(&commit.context());
    }
    Some(commit)
}

/// Which readings were given no position.
fn duplicates<'a>(positions: impl Iterator<Item = &'a Option<i64>>) -> Vec<usize> {
    positions.enumerate().filter(|(_, at)| at.is_none()).map(|(nth, _)| nth).collect()
}

/// A caller that went away does not want its answer; its readings are stored.
fn answer(mut request: Request, result: Result<Vec<usize>, WritersError>) {
    if let (Some(append), Err(error)) = (&mut request.append, &result) {
        append.fail(error.code());
    }
    if request.reply.send(result).is_err() {
        tracing::debug!("the caller went away before its commit was acknowledged");
    }
}

fn unavailable(shard: i16, error: &AppendError) -> WritersError {
    metrics::counter!("vitals_append_errors_total").increment(1);
    tracing::error!(shard, %error, "a batch was not written; its senders were told");
    WritersError::Unavailable
}

/// Data exceptions and violated constraints: another batch may well succeed.
fn is_about_the_data(error: &AppendError) -> bool {
    match error {
        AppendError::Database(sqlx::Error::Database(e)) => {
            e.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
        }
        AppendError::TooMany(_)
        | AppendError::Malformed(_)
        | AppendError::Archived
        | AppendError::NoPartition => true,
        AppendError::Database(_) | AppendError::NoShard(_) | AppendError::Restored => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(room: &Arc<Semaphore>) -> Request {
        let (reply, _) = oneshot::channel();
        let _room = room.clone().try_acquire_owned().unwrap();
        Request { events: Vec::new(), reply, append: None, _room }
    }

    #[tokio::test]
    async fn small_and_large_requests_alternate_when_both_wait() {
        let room = Arc::new(Semaphore::new(100));
        let (small, of_small) = mpsc::unbounded_channel();
        let (large, of_large) = mpsc::unbounded_channel();
        let mut queue = Queue::new(of_small, of_large);
        for _ in 0..3 {
            small.send(request(&room)).unwrap();
        }
        for _ in 0..4 {
            large.send(request(&room)).unwrap();
        }
        drop((small, large));
        let mut sizes = Vec::new();
        while let Some((size, _)) = queue.first().await {
            sizes.push(if size == Size::Small { 's' } else { 'L' });
        }
        assert_eq!(String::from_iter(sizes), "sLsLsLL");
        assert_eq!(room.available_permits(), 100);
    }
}
