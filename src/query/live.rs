//! The log as it grows.
//!
//! Guarantees that a subscriber sees every event after its position, in each shard's
//! order, none twice: what the shared tail no longer holds is read from the log. Where the
//! log's history is left (a new incarnation), it ends, and says from where on to follow the
//! new one without a loss. Does not order shards against each other, and does not read anything while
//! nobody listens.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_stream::try_stream;
use futures_util::Stream;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use crate::event::Recorded;
use crate::log::partition::Span;
use crate::log::{
    Log, ReplyTimeout, Window, answered, archived_months, head, heads, read_window,
    read_window_of_tenant, signal_or_poll,
};
use crate::tasks::Tasks;

/// The most positions read at once.
const WINDOW_POSITIONS_MAX: i64 = 1_000;
/// Windows that the tail holds for subscribers that are a little behind.
const WINDOWS_HELD_MAX: usize = 32;
/// The shortest time between two reads: a screen needs no more.
const PACE_MS: u64 = 20;

/// Subscribers of one process.
pub const SUBSCRIBERS_MAX: usize = 2_000;
/// How far back a subscriber may resume; beyond that it is cheaper to begin anew.
const RESUME_POSITIONS_MAX: i64 = 1_000_000;

/// Where a subscriber stands: one position a shard, of one history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPosition {
    /// Of the log.
    pub incarnation: i64,
    /// Of the shards, from 0 on.
    pub positions: Vec<i64>,
}

/// Why a position cannot be resumed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position in this stream: leave Last-Event-ID out to start with what comes next")]
pub struct BadStreamPosition;

impl StreamPosition {
    /// Reads what `Display` writes.
    pub fn parse(text: &str, shards: usize) -> Result<StreamPosition, BadStreamPosition> {
        let (incarnation, positions) = text.split_once('.').ok_or(BadStreamPosition)?;
        let positions: Result<Vec<i64>, _> = positions.split('-').map(str::parse).collect();
        match (incarnation.parse(), positions) {
            (Ok(incarnation), Ok(positions)) if positions.len() == shards => {
                Ok(StreamPosition { incarnation, positions })
            }
            _ => Err(BadStreamPosition),
        }
    }
}

impl std::fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.incarnation)?;
        for (i, position) in self.positions.iter().enumerate() {
            let dash = if i == 0 { '.' } else { '-' };
            write!(f, "{dash}{position}")?;
        }
        Ok(())
    }
}

/// Why there is no subscription.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// PostgreSQL said no, or is gone.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    /// It begins nowhere in this log.
    #[error("{0}")]
    Position(#[from] BadStreamPosition),
    /// The position is of another history of this log. Nothing of this one is missed from here on,
    /// if that is known.
    #[error("the log was restored since")]
    Restored(Option<StreamPosition>),
    /// What came after the position has left the log's table.
    #[error("{0} was archived since")]
    Archived(Span),
    /// More would slow everybody down.
    #[error("{SUBSCRIBERS_MAX} streams are open on this server: try again, or close some")]
    Full,
}

/// What a subscriber is told.
pub enum StreamItem {
    /// An event, and the position after it.
    Event(StreamPosition, Arc<Heard>),
    /// The history has ended, and this is where to follow the new one from, if that is known.
    /// The last that is told.
    Restored(Option<StreamPosition>),
}

/// An event on its way to those who listen.
#[derive(Debug)]
pub struct Heard {
    /// The event.
    pub recorded: Recorded,
    rendered: OnceLock<Option<Rendered>>,
}

/// An event as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Of what kind.
    pub name: &'static str,
    /// Which device it is of, for those who see no other.
    pub device_id: String,
    /// JSON.
    pub text: String,
}

impl Heard {
    fn new(recorded: Recorded) -> Arc<Heard> {
        Arc::new(Heard { recorded, rendered: OnceLock::new() })
    }

    /// What is sent of it; made by the first who asks, kept for all others. `None` is for
    /// nobody outside.
    pub fn rendered(
        &self,
        render: impl FnOnce(&Recorded) -> Option<Rendered>,
    ) -> Option<&Rendered> {
        self.rendered.get_or_init(|| render(&self.recorded)).as_ref()
    }
}

/// A window of the tail.
struct Tail {
    incarnation: i64,
    window: Window,
    events: Vec<Arc<Heard>>,
}

impl Tail {
    /// The shard, as an index of [`StreamPosition::positions`].
    fn shard(&self) -> usize {
        usize::from(self.window.shard.unsigned_abs())
    }
}

/// The shared tail of the log.
#[derive(Clone)]
pub struct Live {
    log: Log,
    tail: broadcast::Sender<Arc<Tail>>,
    someone: Arc<tokio::sync::watch::Sender<u64>>,
    room: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Live {
    /// Starts one tail a shard.
    pub fn start(log: &Log, tasks: &Tasks, stop: &CancellationToken) -> Live {
        let live = Live {
            log: log.clone(),
            tail: broadcast::Sender::new(WINDOWS_HELD_MAX),
            someone: Arc::new(tokio::sync::watch::Sender::new(0)),
            room: Arc::new(Semaphore::new(SUBSCRIBERS_MAX)),
            stop: stop.clone(),
        };
        for shard in log.shards() {
            tasks.spawn("the live tail", live.clone().follow(shard));
        }
        live
    }

    /// The number of shards, which a position has as many positions as.
    pub fn shards(&self) -> usize {
        self.log.shards().count()
    }

    /// Everything after `from`, or after this moment, with the position after each event;
    /// and the position that it begins at, which is fixed when this returns.
    pub async fn subscribe(
        &self,
        tenant: &str,
        from: Option<StreamPosition>,
    ) -> Result<
        (StreamPosition, impl Stream<Item = Result<StreamItem, sqlx::Error>> + use<>),
        SubscribeError,
    > {
        let room = self.room.clone().try_acquire_owned().map_err(|_| SubscribeError::Full)?;
        // In this order: what is committed after the subscription comes by the tail,
        // what was before is read.
        let mut tail = self.tail.subscribe();
        self.someone.send_modify(|n| *n += 1);
        if from.as_ref().is_some_and(|from| from.incarnation != self.incarnation()) {
            // Another process may know more than this one.
            self.log.check_incarnation().await?;
        }
        // Before anything of it is read.
        let incarnation = self.incarnation();
        let heads = self.heads().await?;
        if let Some(from) = &from {
            self.may_resume(from, incarnation, &heads).await?;
        }
        let start =
            from.unwrap_or_else(|| StreamPosition { incarnation, positions: heads.clone() });
        let (live, mut position) = (self.clone(), start.clone());
        let tenant: Arc<str> = tenant.into();
        let stream = try_stream! {
            let _room = room;
            // What is to be read from the log next: shards, and up to where.
            let mut gaps: Vec<(usize, i64)> = heads.into_iter().enumerate().collect();
            'history: loop {
                for (shard, to) in gaps {
                    let pages = live.read(&tenant, shard, position.positions[shard], to);
                    for await page in pages {
                        let page = page?;
                        // Asked after the reading: what was read may be of the new one.
                        if live.incarnation() != incarnation {
                            break 'history;
                        }
                        for event in page {
                            position.positions[shard] = event.position;
                            yield StreamItem::Event(position.clone(), Heard::new(event));
                        }
                    }
                    position.positions[shard] = position.positions[shard].max(to);
                }
                let received = tokio::select! {
                    () = live.stop.cancelled() => return,
                    () = live.log.incarnations().left(incarnation) => break,
                    received = tail.recv() => received,
                };
                match received {
                    Ok(tail) if tail.incarnation != incarnation => break,
                    Ok(tail) if tail.window.after > position.positions[tail.shard()] => {
                        gaps = vec![(tail.shard(), tail.window.to)];
                    }
                    Ok(tail) => {
                        gaps = Vec::new();
                        let shard = tail.shard();
                        for heard in &tail.events {
                            let recorded = &heard.recorded;
                            let is_new = recorded.position > position.positions[shard];
                            if is_new && recorded.event.tenant == tenant {
                                position.positions[shard] = recorded.position;
                                yield StreamItem::Event(position.clone(), heard.clone());
                            }
                        }
                        position.positions[shard] = position.positions[shard].max(tail.window.to);
                    }
                    Err(RecvError::Lagged(_)) => {
                        gaps = live.heads().await?.into_iter().enumerate().collect();
                    }
                    Err(RecvError::Closed) => return,
                }
            }
            yield StreamItem::Restored(live.go_on(&position));
        };
        Ok((start, stream))
    }

    fn incarnation(&self) -> i64 {
        self.log.incarnations().number()
    }

    /// Whether all that came after a position is still there to be told.
    async fn may_resume(
        &self,
        from: &StreamPosition,
        incarnation: i64,
        heads: &[i64],
    ) -> Result<(), SubscribeError> {
        if from.incarnation != incarnation {
            return Err(SubscribeError::Restored(self.go_on(from)));
        }
        let behind =
            |(head, from): (&i64, &i64)| !(0..=RESUME_POSITIONS_MAX).contains(&(head - from));
        if heads.len() != from.positions.len() || heads.iter().zip(&from.positions).any(behind) {
            return Err(BadStreamPosition.into());
        }
        // Kept rows alone would look like the whole.
        for month in archived_months(self.log.pool()).await? {
            if month.positions_to.iter().zip(&from.positions).any(|(to, from)| from < to) {
                return Err(SubscribeError::Archived(month.span));
            }
        }
        Ok(())
    }

    /// The position in the present history from which on nothing is missed by who stood at this
    /// position in another: as far as the two are the same, where they stood.
    fn go_on(&self, from: &StreamPosition) -> Option<StreamPosition> {
        let common = self.log.incarnations().common_with(from.incarnation)?;
        let both = from.positions.iter().zip(&common);
        let positions = both.map(|(at, common)| *at.min(common)).collect();
        Some(StreamPosition { incarnation: self.incarnation(), positions })
            .filter(|_| common.len() == from.positions.len())
    }

    /// Reads a tenant's events at a shard's positions (after, to], page by page.
    fn read(
        &self,
        tenant: &Arc<str>,
        shard: usize,
        after: i64,
        to: i64,
    ) -> impl Stream<Item = Result<Vec<Recorded>, sqlx::Error>> + use<> {
        let (pool, tenant, stop) = (self.log.pool().clone(), tenant.clone(), self.stop.clone());
        try_stream! {
            let mut at = after;
            while at < to && !stop.is_cancelled() {
                let next = to.min(at + WINDOW_POSITIONS_MAX);
                let mut connection = pool.acquire().await?;
                let page = answered(async {
                    let window = Window::between(&mut connection, shard as i16, at, next).await?;
                    read_window_of_tenant(&mut connection, &window, &tenant).await
                });
                let page = page.await?;
                drop(connection);
                yield page;
                at = next;
            }
        }
    }

    async fn heads(&self) -> Result<Vec<i64>, sqlx::Error> {
        answered(async { heads(&mut *self.log.pool().acquire().await?).await }).await
    }

    /// One shard's tail.
    async fn follow(self, shard: i16) {
        let mut moved = self.log.wake().follow(shard);
        let mut someone = self.someone.subscribe();
        // Where it stands, and in which history.
        let mut at: Option<(i64, i64)> = None;
        let mut timeout = ReplyTimeout::default();
        while !self.stop.is_cancelled() {
            if self.tail.receiver_count() == 0 {
                at = None;
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    _ = someone.changed() => {}
                }
                continue;
            }
            moved.mark_unchanged();
            match timeout.answered(self.advance(shard, at)).await {
                Ok(to) if to.is_some() && to == at => {
                    tokio::select! {
                        () = self.stop.cancelled() => {}
                        () = signal_or_poll(&mut moved) => {}
                    }
                }
                Ok(to) => {
                    timeout.reset();
                    at = to;
                    tokio::time::sleep(Duration::from_millis(PACE_MS)).await;
                }
                Err(error) => {
                    tracing::error!(shard, %error, "the live tail cannot read; trying again");
                    tokio::time::sleep(Duration::from_millis(crate::log::POLL_MS)).await;
                }
            }
        }
    }

    /// Sends the next window. The first one is empty: it tells subscribers where the
    /// tail begins, and they read up to there themselves.
    async fn advance(
        &self,
        shard: i16,
        at: Option<(i64, i64)>,
    ) -> Result<Option<(i64, i64)>, sqlx::Error> {
        let mut connection = self.log.pool().acquire().await?;
        let incarnation = self.incarnation();
        let at = at.filter(|(of, _)| *of == incarnation).map(|(_, position)| position);
        let head = head(&mut connection, shard).await?;
        let after = at.unwrap_or(head);
        if head < after {
            // A history does not go back: this is another.
            self.log.incarnations().check(&mut connection).await?;
            return Ok(None);
        }
        let to = head.min(after + WINDOW_POSITIONS_MAX);
        if at == Some(to) {
            return Ok(Some((incarnation, to)));
        }
        let window = Window::between(&mut connection, shard, after, to).await?;
        let events =
            if after < to { read_window(&mut connection, &window).await? } else { Vec::new() };
        if self.incarnation() != incarnation {
            return Ok(None);
        }
        let events = events.into_iter().map(Heard::new).collect();
        // Perhaps no subscriber is left; that is no error.
        if self.tail.send(Arc::new(Tail { incarnation, window, events })).is_err() {
            tracing::trace!(shard, "no subscriber is left");
        }
        Ok(Some((incarnation, to)))
    }
}
