//! Wake-ups: the hint that a shard has moved.
//!
//! Guarantees nothing but latency. Whoever waits also has a timer, and a wake-up
//! that is lost costs at most [`POLL_MS`].
//!
//! No NOTIFY is sent inside an append: it takes a lock over the whole database at
//! commit. In this process a channel tells; the others hear one coalesced NOTIFY
//! in a transaction of its own, a little later if all it tells of is readings that no rule
//! hurries for. A reader who waits for a fold asks it to hurry in the same ways.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::watch;

use super::answered;
use crate::event::{ACCESS, Event, READING};

/// How long anybody sleeps without looking for himself.
pub const POLL_MS: u64 = 500;
/// The shortest pause between two NOTIFYs of one process.
const NOTIFY_PAUSE_MS: u64 = 5;
/// How much longer it is while nothing comes but readings that no rule hurries for: a hundredth
/// of the machine went into NOTIFYs under a flood of single readings.
const CALM_PAUSE_MS: u64 = 20;
const CHANNEL: &str = "vitals_log";
/// What a NOTIFY begins with that asks a consumer to hurry.
const WANTED: &str = "wanted ";

/// The signals of all shards.
#[derive(Clone)]
pub struct Wake {
    shards: Arc<[Signals]>,
    is_urgent: Arc<OnceLock<IsUrgent>>,
    /// Who asks a consumer of a shard not to take its time.
    wanted: Arc<Mutex<Wanted>>,
    /// Moves that happened in this process, for the others to hear of.
    own: Arc<watch::Sender<u64>>,
    /// Those of them that cannot wait.
    pressing: Arc<watch::Sender<u64>>,
    /// Who we are, so that our own NOTIFY does not wake us again.
    id: Arc<str>,
}

/// The signals of each consumer and shard that somebody follows or waits for.
type Wanted = HashMap<(String, i16), watch::Sender<u64>>;

/// Says of an event whether somebody waits for it.
type IsUrgent = Box<dyn Fn(&Event) -> bool + Send + Sync>;

/// The signals of one shard.
#[derive(Default)]
struct Signals {
    anything: watch::Sender<u64>,
    non_readings: watch::Sender<u64>,
    urgent: watch::Sender<u64>,
}

/// What a shard moved by, beside readings that can wait.
#[derive(Clone, Copy)]
struct Moved {
    happened: bool,
    urgent: bool,
}

impl Wake {
    pub(super) fn new(shards: i16) -> Wake {
        Wake {
            shards: (0..shards).map(|_| Signals::default()).collect(),
            is_urgent: Arc::default(),
            wanted: Arc::default(),
            own: Arc::default(),
            pressing: Arc::default(),
            id: uuid::Uuid::now_v7().to_string().into(),
        }
    }

    /// Names the readings that somebody waits for: their arrival wakes at once whoever
    /// follows urgently. Once a process; whoever names none is woken by the others.
    pub fn hurry_for(&self, is_urgent: impl Fn(&Event) -> bool + Send + Sync + 'static) {
        self.is_urgent.get_or_init(|| Box::new(is_urgent));
    }

    /// These events were appended to a shard by this process.
    pub fn appended(&self, shard: i16, events: &[Event]) {
        // Nobody waits for who has asked what, and half of all who ask would wake everybody.
        if events.iter().all(|event| event.kind == ACCESS) {
            return;
        }
        let moved = Moved {
            happened: events.iter().any(|event| event.kind != READING),
            // Who does not know what is urgent takes everything for it.
            urgent: self.is_urgent.get().is_none_or(|is_urgent| events.iter().any(is_urgent)),
        };
        self.here(shard, moved);
        if moved.happened || moved.urgent {
            self.pressing.send_modify(|n| *n += 1);
        }
        self.own.send_modify(|n| *n += 1);
    }

    /// Wakes who waits in this process.
    fn here(&self, shard: i16, moved: Moved) {
        let Some(signals) = self.of(shard) else { return };
        signals.anything.send_modify(|n| *n += 1);
        if moved.happened {
            signals.non_readings.send_modify(|n| *n += 1);
        }
        if moved.urgent {
            signals.urgent.send_modify(|n| *n += 1);
        }
    }

    fn of(&self, shard: i16) -> Option<&Signals> {
        self.shards.get(usize::try_from(shard).ok()?)
    }

    /// Follows all that happens on a shard. A shard that is none never signals.
    pub fn follow(&self, shard: i16) -> watch::Receiver<u64> {
        self.of(shard).map_or_else(never, |signals| signals.anything.subscribe())
    }

    /// Follows what is no reading.
    pub fn follow_non_readings(&self, shard: i16) -> watch::Receiver<u64> {
        self.of(shard).map_or_else(never, |signals| signals.non_readings.subscribe())
    }

    /// Follows what was named to [`Wake::hurry_for`].
    pub fn follow_urgent(&self, shard: i16) -> watch::Receiver<u64> {
        self.of(shard).map_or_else(never, |signals| signals.urgent.subscribe())
    }

    /// Follows who waits for this consumer of a shard.
    pub fn follow_wanted(&self, consumer: &str, shard: i16) -> watch::Receiver<u64> {
        self.wanted(consumer, shard).subscribe()
    }

    /// Asks a consumer of this process not to take its time on a shard. `false` when there
    /// is none.
    pub fn hurry_here(&self, consumer: &str, shard: i16) -> bool {
        let wanted = self.wanted(consumer, shard);
        wanted.send_modify(|n| *n += 1);
        wanted.receiver_count() > 0
    }

    /// Asks a consumer not to take its time on a shard, in whatever process it runs.
    pub async fn hurry(&self, pool: &PgPool, consumer: &str, shard: i16) {
        if self.hurry_here(consumer, shard) {
            return;
        }
        let asked = format!("{WANTED}{shard} {consumer}");
        let notify = sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(asked);
        if let Err(error) = answered(notify.execute(pool)).await {
            tracing::debug!(%error, consumer, shard, "it was not asked to hurry");
        }
    }

    fn wanted(&self, consumer: &str, shard: i16) -> watch::Sender<u64> {
        let mut wanted = self.wanted.lock();
        wanted.entry((consumer.to_owned(), shard)).or_default().clone()
    }

    /// Tells other processes of this one's moves, and this one of theirs. Ends
    /// never; a database that is away is tried again.
    pub async fn relay(&self, pool: PgPool) {
        let (tell, hear) = (self.tell(&pool), self.hear(&pool));
        tokio::join!(tell, hear);
    }

    /// Tells the others once, for commands that end.
    pub async fn notify(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let notify =
            sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(&*self.id).execute(pool);
        answered(notify).await.map(|_| ())
    }

    async fn tell(&self, pool: &PgPool) {
        let (mut own, mut pressing) = (self.own.subscribe(), self.pressing.subscribe());
        while own.changed().await.is_ok() {
            pressing.mark_unchanged();
            if let Err(error) = self.notify(pool).await {
                tracing::debug!(%error, "no wake-up for the other instances; they poll");
            }
            tokio::time::sleep(Duration::from_millis(NOTIFY_PAUSE_MS)).await;
            let calm = Duration::from_millis(CALM_PAUSE_MS);
            tokio::time::timeout(calm, pressing.changed()).await.ok();
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
            // Our own come back to us: silence is a calm ward, or a connection whose other
            // side has vanished. Whatever was missed is found by the timer.
            let told = answered(listener.recv()).await?;
            if told.payload() == &*self.id {
                continue;
            }
            if let Some(asked) = told.payload().strip_prefix(WANTED) {
                if let Some((shard, consumer)) = asked.split_once(' ')
                    && let Ok(shard) = shard.parse()
                    && self.of(shard).is_some()
                {
                    self.hurry_here(consumer, shard);
                }
                continue;
            }
            for shard in 0..self.shards.len() {
                // What it was is not told: look at everything.
                self.here(shard as i16, Moved { happened: true, urgent: true });
            }
        }
    }
}

fn never() -> watch::Receiver<u64> {
    watch::Sender::new(0).subscribe()
}

/// Waits for a signal, or for the time after which one looks for oneself.
pub async fn signal_or_poll(receiver: &mut watch::Receiver<u64>) {
    let pause = Duration::from_millis(POLL_MS);
    // A signal that can never come is no reason not to wait.
    if let Ok(Err(_closed)) = tokio::time::timeout(pause, receiver.changed()).await {
        tokio::time::sleep(pause).await;
    }
}
