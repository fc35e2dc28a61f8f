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

mod append;
pub mod chain;
pub mod partition;
mod read;
mod wake;

use std::sync::Arc;

use sqlx::PgPool;
use sqlx::migrate::MigrateError;
use uuid::Uuid;

pub use append::{AppendError, Appended, append};
pub use read::{Window, decode_events, read_happenings, read_window, read_window_of_tenant};
pub use wake::{POLL_MS, Wake, signal_or_poll};

/// The schema, embedded in the binary.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// How many shards a new database gets, unless the operator says otherwise.
pub const SHARDS_DEFAULT: i16 = 4;

/// The most events of one append; readers rely on it to bound their windows. One
/// request on top of a batch that was almost full fits.
pub const EVENTS_PER_APPEND_MAX: usize = 20_000;

/// The open log: cheap to clone.
#[derive(Clone)]
pub struct Log {
    pool: PgPool,
    shards: i16,
    partitions: Arc<partition::Known>,
    wake: Wake,
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

impl Log {
    /// Migrates the schema, fixes the number of shards on a new database and
    /// refuses another number on an old one.
    ///
    /// `shards` left out means whatever the database has, or [`SHARDS_DEFAULT`].
    pub async fn open(pool: PgPool, shards: Option<i16>) -> Result<Log, OpenError> {
        MIGRATIONS.run(&pool).await?;
        sqlx::query("insert into installation (id, shards) values ($1, $2) on conflict do nothing")
            .bind(Uuid::now_v7())
            .bind(shards.unwrap_or(SHARDS_DEFAULT))
            .execute(&pool)
            .await?;
        let stored: i16 =
            sqlx::query_scalar("select shards from installation").fetch_one(&pool).await?;
        if let Some(asked) = shards
            && asked != stored
        {
            return Err(OpenError::Shards { stored, asked });
        }
        sqlx::query(
            "insert into shard_head (shard) select generate_series(0, $1 - 1) on conflict do nothing",
        )
        .bind(i32::from(stored))
        .execute(&pool)
        .await?;
        let partitions = Arc::new(partition::Known::load(&pool).await?);
        Ok(Log { pool, shards: stored, partitions, wake: Wake::new(stored) })
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

    /// Makes sure that the months of `times` have their partitions.
    pub async fn ensure_partitions(
        &self,
        times: impl Iterator<Item = chrono::DateTime<chrono::Utc>>,
    ) -> Result<(), sqlx::Error> {
        self.partitions.ensure(&self.pool, times).await
    }

    /// Appends to one shard in a transaction of its own and wakes its readers.
    pub async fn append(
        &self,
        shard: i16,
        events: &[crate::event::Event],
    ) -> Result<Appended, AppendError> {
        self.ensure_partitions(events.iter().map(|e| e.occurred_at)).await?;
        let mut tx = self.pool.begin().await?;
        let appended = append(&mut tx, shard, events).await?;
        tx.commit().await?;
        if appended.stored() > 0 {
            self.wake.appended(shard, events);
        }
        Ok(appended)
    }
}
