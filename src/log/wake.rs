//! Wake-ups: the hint that a shard has moved.
//!
//! Guarantees nothing but latency. Whoever waits also has a timer, and a wake-up
//! that is lost costs at most [`POLL_MS`].
//!
//! No NOTIFY is sent inside an append: it takes a lock over the whole database at
//! commit. In this process a channel tells; the others hear one coalesced NOTIFY
//! in a transaction of its own.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::watch;

/// How long anybody sleeps without looking for himself.
pub const POLL_MS: u64 = 500;
/// The shortest pause between two NOTIFYs of one process.
const NOTIFY_PAUSE_MS: u64 = 5;
const CHANNEL: &str = "vitals_log";

/// The signals of all shards.
#[derive(Clone)]
pub struct Wake {
    shards: Arc<Vec<watch::Sender<u64>>>,
    any: Arc<watch::Sender<u64>>,
    /// Moves that happened in this process, for the others to hear of.
    own: Arc<watch::Sender<u64>>,
    /// Who we are, so that our own NOTIFY does not wake us again.
    id: Arc<str>,
}

impl Wake {
    pub(super) fn new(shards: i16) -> Wake {
        Wake {
            shards: Arc::new((0..shards).map(|_| watch::Sender::new(0)).collect()),
            any: Arc::new(watch::Sender::new(0)),
            own: Arc::new(watch::Sender::new(0)),
            id: uuid::Uuid::now_v7().to_string().into(),
        }
    }

    /// A shard moved, by this process's doing.
    pub fn signal(&self, shard: i16) {
        self.here(shard);
        self.own.send_modify(|n| *n += 1);
    }

    /// Wakes who waits in this process.
    fn here(&self, shard: i16) {
        if let Some(sender) = usize::try_from(shard).ok().and_then(|s| self.shards.get(s)) {
            sender.send_modify(|n| *n += 1);
        }
        self.any.send_modify(|n| *n += 1);
    }

    /// Follows one shard.
    pub fn follow(&self, shard: i16) -> watch::Receiver<u64> {
        match usize::try_from(shard).ok().and_then(|s| self.shards.get(s)) {
            Some(sender) => sender.subscribe(),
            None => self.any.subscribe(),
        }
    }

    /// Follows all shards.
    pub fn follow_all(&self) -> watch::Receiver<u64> {
        self.any.subscribe()
    }

    /// Tells other processes of this one's moves, and this one of theirs. Ends
    /// never; a database that is away is tried again.
    pub async fn relay(&self, pool: PgPool) {
        let (tell, hear) = (self.tell(&pool), self.hear(&pool));
        tokio::join!(tell, hear);
    }

    /// Tells the others once, for commands that end.
    pub async fn notify(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        sqlx::query("select pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(&*self.id)
            .execute(pool)
            .await
            .map(|_| ())
    }

    async fn tell(&self, pool: &PgPool) {
        let mut own = self.own.subscribe();
        while own.changed().await.is_ok() {
            if let Err(error) = self.notify(pool).await {
                tracing::debug!(%error, "no wake-up for the other instances; they poll");
            }
            tokio::time::sleep(Duration::from_millis(NOTIFY_PAUSE_MS)).await;
        }
    }

    async fn hear(&self, pool: &PgPool) {
        loop {
            if let Err(error) = self.listen(pool).await {
                tracing::debug!(%error, "not listening for wake-ups; polling meanwhile");
            }
            tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
        }
    }

    async fn listen(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(CHANNEL).await?;
        loop {
            if listener.recv().await?.payload() == &*self.id {
                continue;
            }
            for shard in 0..self.shards.len() {
                self.here(shard as i16);
            }
        }
    }
}

/// Waits for a signal, or for the time after which one looks for oneself.
pub async fn signal_or_poll(receiver: &mut watch::Receiver<u64>) {
    let _timed_out = tokio::time::timeout(Duration::from_millis(POLL_MS), receiver.changed()).await;
}
