//! The log: the only writer of `event`, and the truth that every other table can
//! be rebuilt from.
//!
//! Guarantees: what [`Log::append`] acknowledged is committed; within a shard,
//! position order is commit order, so a reader that asks for "position greater
//! than mine" never misses an event that commits late; a reading is stored once
//! for ever; each commit chains a SHA-256 over its rows.
//!
//! Does not guarantee dense positions (a duplicate leaves a gap), nor an order
//! between shards, nor that a wake-up reaches anybody: wake-ups are hints.

pub mod anchor;
mod append;
mod archived;
pub mod chain;
pub mod copy;
pub mod exchange;
mod head;
mod incarnation;
pub mod partition;
mod read;
pub mod roles;
mod settle;
pub mod shelf;
mod silence;
mod turn;
mod wake;
pub mod wall;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::PgPool;
use sqlx::migrate::MigrateError;
use uuid::Uuid;

pub use append::{AppendError, Appended, append};
use append::{Expect, append_expecting};
pub use archived::{Archived, ArchivedMonth, archived_months};
pub use head::{head, head_and_time, heads, lock_head, time_at};
pub use incarnation::{History, Incarnation};
pub use read::{Window, decode_events, read_happenings, read_window, read_window_of_tenant};
pub(crate) use silence::on_connection;
pub use silence::{Held, Patience, answered, answered_soon, is_idle, takes_writes};
pub use turn::in_turn;
pub use wake::{POLL_MS, Wake, signal_or_poll};

use crate::clock::Clock;

/// The schema, embedded in the binary.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// How many shards a new database gets, unless the operator says otherwise: as many as
/// there are cores, within these bounds. Measured (decision 0003).
const SHARDS_DEFAULT: RangeInclusive<usize> = 2..=4;

/// The most events of one append; readers rely on it to bound their windows. One
/// request on top of a batch that was almost full fits.
pub const EVENTS_PER_APPEND_MAX: usize = 20_000;

/// Duplicates come in bursts, when somebody sends again. After one, so many appends
/// to its shard expect more.
const APPENDS_IN_DOUBT: u32 = 32;

/// The open log: cheap to clone.
#[derive(Clone)]
pub struct Log {
    pool: PgPool,
    installation: Uuid,
    shards: i16,
    history: History,
    partitions: Arc<partition::Known>,
    archived: Arc<archived::Cache>,
    wake: Wake,
    /// For each shard, how many appends are still made as if they met duplicates.
    doubts: Arc<[AtomicU32]>,
}

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The schema could not be brought up to date.
    #[error("migrating the database: {0}")]
    Migrate(#[from] MigrateError),
    /// PostgreSQL said no.
    #[error("reading the installation: {0}")]
    Database(#[from] sqlx::Error),
    /// Who migrates is somebody else, and has not.
    #[error(
        "the schema of this database lacks {0} of our migrations, and {1} may not make them: run vitals \
         migrate --owner-database-url URL as its owner"
    )]
    Behind(usize, String),
    /// The number of shards is fixed when the database is initialised.
    #[error(
        "this database was initialised with {stored} shards, not {asked}: start with --shards {stored} (or leave it out)"
    )]
    Shards {
        /// What the database has.
        stored: i16,
        /// What was asked for.
        asked: i16,
    },
}

fn shards_by_default() -> i16 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.clamp(*SHARDS_DEFAULT.start(), *SHARDS_DEFAULT.end()) as i16
}

/// Migrates, and makes what a log begins with.
async fn install(pool: &PgPool, shards: Option<i16>) -> Result<(), OpenError> {
    MIGRATIONS.run(pool).await?;
    // Months from the year before on: what is older comes from clocks that run wild,
    // and from old recordings.
    sqlx::query(
        "insert into installation (id, shards, months_from) \
         values ($1, $2, extract(year from clock_timestamp() at time zone 'UTC') - 1) \
         on conflict do nothing",
    )
    .bind(Uuid::now_v7())
    .bind(shards.unwrap_or_else(shards_by_default))
    .execute(pool)
    .await?;
    sqlx::query(
        "insert into shard_head (shard) select generate_series(0, shards - 1) from installation \
         on conflict do nothing",
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// How many of our migrations nobody has made.
async fn migrations_ahead(pool: &PgPool) -> Result<usize, sqlx::Error> {
    let made: Vec<i64> = sqlx::query_scalar("select version from _sqlx_migrations where success")
        .fetch_all(pool)
        .await?;
    Ok(MIGRATIONS.iter().filter(|migration| !made.contains(&migration.version)).count())
}

impl Log {
    /// Migrates the schema, fixes the number of shards on a new database and
    /// refuses another number on an old one. Who does not own the log only makes sure that
    /// its owner did so.
    ///
    /// `shards` left out means whatever the database has, or what suits this machine.
    pub async fn open(pool: PgPool, shards: Option<i16>) -> Result<Log, OpenError> {
        let identity = roles::identity(&mut *pool.acquire().await?).await?;
        if identity.may_rewrite || !identity.has_log {
            install(&pool, shards).await?;
        } else {
            let lacks = migrations_ahead(&pool).await?;
            if lacks > 0 {
                return Err(OpenError::Behind(lacks, identity.name));
            }
        }
        let (installation, stored): (Uuid, i16) =
            sqlx::query_as("select id, shards from installation").fetch_one(&pool).await?;
        if let Some(asked) = shards
            && asked != stored
        {
            return Err(OpenError::Shards { stored, asked });
        }
        let partitions = Arc::new(partition::Known::load(&pool).await?);
        let history = History::open(&pool, stored, partitions.months_from()).await?;
        let archived = Arc::new(archived::Cache::default());
        archived.reload(&pool).await?;
        let doubts = (0..stored).map(|_| AtomicU32::new(0)).collect();
        let wake = Wake::new(stored);
        let shards = stored;
        Ok(Log { pool, installation, shards, history, partitions, archived, wake, doubts })
    }

    /// The same log over other connections, so that those who write do not wait for
    /// those who ask.
    pub fn with_pool(&self, pool: PgPool) -> Log {
        Log { pool, ..self.clone() }
    }

    /// The database of the log.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// All shards.
    pub fn shards(&self) -> impl Iterator<Item = i16> + use<> {
        0..self.shards
    }

    /// The signal that a shard has moved.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// The shard that a patient wholly lives in.
    ///
    /// FNV-1a, 64 bit, over tenant, a zero byte and patient: stable over versions
    /// and machines, which a hasher of the standard library is not.
    pub fn shard_of(&self, tenant: &str, patient_id: &str) -> i16 {
        let hash = tenant
            .bytes()
            .chain([0])
            .chain(patient_id.bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
                (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        // The remainder is smaller than an i16.
        (hash % self.shards.unsigned_abs() as u64) as i16
    }

    /// Which installation this is: the same as long as its database lives.
    pub fn installation(&self) -> Uuid {
        self.installation
    }

    /// Which history this is, and what is known of those before it.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Looks whether it still is that history: a pooler may change servers behind a
    /// connection, which all others look at when they make it.
    pub async fn look(&self) -> Result<(), sqlx::Error> {
        answered_soon(async { self.history.look(&mut *self.pool.acquire().await?).await }).await
    }

    /// The present incarnation, if the log was ever restored.
    pub async fn restored(&self) -> Result<Option<Incarnation>, sqlx::Error> {
        incarnation::newest_restored(&self.pool).await
    }

    /// How far the log's time is ahead of a clock: PostgreSQL's, or what it said before it
    /// jumped back. If it is PostgreSQL's that is wrong, readings look late by as much.
    pub async fn ahead_of(&self, clock: &Clock) -> Result<chrono::TimeDelta, sqlx::Error> {
        let time: chrono::DateTime<chrono::Utc> = sqlx::query_scalar(
            "select greatest(max(recorded_at), clock_timestamp()) from shard_head",
        )
        .fetch_one(&self.pool)
        .await?;
        // After the answer: who waited for a connection is not ahead.
        Ok(time - clock.now())
    }

    /// The archived months, as this process knows them.
    pub fn archived(&self) -> Archived {
        self.archived.get()
    }

    /// Looks again which months are archived.
    pub async fn reload_archived(&self) -> Result<(), sqlx::Error> {
        self.archived.reload(&self.pool).await
    }

    /// Makes the partitions of the present month and of those that come next.
    pub async fn ensure_partitions_ahead(
        &self,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<(), sqlx::Error> {
        self.partitions.ensure_ahead(&self.pool, self.history.number(), now).await
    }

    /// Makes sure that the months of `times` have their partitions.
    pub async fn ensure_partitions(
        &self,
        times: impl Iterator<Item = chrono::DateTime<chrono::Utc>>,
    ) -> Result<(), sqlx::Error> {
        self.partitions.ensure(&self.pool, self.history.number(), times).await
    }

    /// Appends to one shard in a transaction of its own and wakes its readers.
    pub async fn append(
        &self,
        shard: i16,
        events: &[crate::event::Event],
    ) -> Result<Appended, AppendError> {
        self.append_on(&mut Held::patient(), shard, events).await
    }

    /// Appends the same events to every shard, all in one transaction, ends it and wakes all
    /// readers: each shard has them at a position of its own, and none has them without the
    /// others. The partitions must be there.
    pub async fn append_everywhere(
        &self,
        mut tx: sqlx::PgTransaction<'_>,
        events: &[crate::event::Event],
    ) -> Result<(), AppendError> {
        // The heads are locked in one order by everybody.
        for shard in self.shards() {
            append(&mut tx, shard, events).await?;
        }
        tx.commit().await?;
        for shard in self.shards() {
            self.wake.appended(shard, events);
        }
        Ok(())
    }

    /// The same for who appends one batch after the other.
    pub async fn append_on(
        &self,
        held: &mut Held,
        shard: i16,
        events: &[crate::event::Event],
    ) -> Result<Appended, AppendError> {
        let times = || events.iter().map(|event| event.occurred_at);
        self.ensure_partitions(times()).await?;
        match self.append_once(held, shard, events).await {
            Err(AppendError::NoPartition) => {
                self.partitions.forget(times());
                self.ensure_partitions(times()).await?;
                self.append_once(held, shard, events).await
            }
            appended => appended,
        }
    }

    async fn append_once(
        &self,
        held: &mut Held,
        shard: i16,
        events: &[crate::event::Event],
    ) -> Result<Appended, AppendError> {
        let doubts = usize::try_from(shard).ok().and_then(|shard| self.doubts.get(shard));
        let doubt = doubts.map_or(0, |doubts| doubts.load(Ordering::Relaxed));
        let expect = if doubt == 0 { Expect::New } else { Expect::Duplicates };
        // One statement is a transaction of its own: one round trip.
        let appended = silence::on_connection(&self.pool, held, async |connection| {
            append_expecting(expect, connection, shard, events).await
        });
        let appended = appended.await;
        if matches!(appended, Err(AppendError::Archived)) {
            // So that whoever sends it again is told at the door.
            self.reload_archived().await?;
        }
        let appended = appended?;
        held.patience.regain();
        if let Some(doubts) = doubts {
            let met = appended.stored() < events.len();
            let doubt = if met { APPENDS_IN_DOUBT } else { doubt.saturating_sub(1) };
            doubts.store(doubt, Ordering::Relaxed);
        }
        if let Some(last) = appended.positions.iter().rev().find_map(|position| *position) {
            self.history.acknowledged(shard, last, appended.recorded_at);
            self.wake.appended(shard, events);
        }
        Ok(appended)
    }
}
