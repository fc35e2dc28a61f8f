//! The open log, which everybody has a copy of.
//!
//! Guarantees that what [`Log::append`] acknowledged is committed, that the partitions which
//! it needs are there first, and that its readers are woken after it. Does not hold rows: it
//! knows shards, months and incarnations.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::PgPool;
use uuid::Uuid;

use super::append::{
    AppendError, Appended, Expect, Named, append, append_named, append_naming, readings,
};
use super::archived::{self, Archived};
use super::incarnation::{self, Incarnation, Incarnations};
use super::install::{LogOpenError, install, migrations_ahead, refuse_unreleased};
use super::series::{self, SeriesCache};
use super::timeouts::{self, GuardedConnection, answered_soon};
use super::traced::TracedEvents;
use super::wake::Wake;
use super::{partition, roles};
use crate::clock::Clock;

/// Duplicates come in bursts, when somebody sends again. After one, so many appends
/// to its shard expect more.
const APPENDS_IN_DOUBT: u32 = 32;

/// The open log: cheap to clone.
#[derive(Clone)]
pub struct Log {
    pool: PgPool,
    installation: Uuid,
    shards: i16,
    incarnations: Incarnations,
    partitions: Arc<partition::KnownPartitions>,
    archived: Arc<archived::Cache>,
    wake: Wake,
    series: Arc<SeriesCache>,
    /// For each shard, how many appends are still made as if they met duplicates.
    doubts: Arc<[AtomicU32]>,
}

impl Log {
    /// Migrates the schema, fixes the number of shards on a new database and
    /// refuses another number on an old one. Who does not own the log only makes sure that
    /// its owner did so.
    ///
    /// `shards` left out means whatever the database has, or what suits this machine.
    pub async fn open(pool: PgPool, shards: Option<i16>) -> Result<Log, LogOpenError> {
        refuse_unreleased(&pool).await?;
        let identity = roles::identity(&mut *pool.acquire().await?).await?;
        if identity.may_rewrite || !identity.has_log {
            install(&pool, shards).await?;
        } else {
            let lacks = migrations_ahead(&pool).await?;
            if lacks > 0 {
                return Err(LogOpenError::Behind(lacks, identity.name));
            }
        }
        let (installation, stored): (Uuid, i16) =
            sqlx::query_as("select id, shards from installation").fetch_one(&pool).await?;
        if let Some(asked) = shards
            && asked != stored
        {
            return Err(LogOpenError::Shards { stored, asked });
        }
        let partitions = Arc::new(partition::KnownPartitions::load(&pool).await?);
        let incarnations = Incarnations::open(&pool, stored, partitions.months_from()).await?;
        let archived = Arc::new(archived::Cache::default());
        archived.reload(&pool).await?;
        let doubts = (0..stored).map(|_| AtomicU32::new(0)).collect();
        Ok(Log {
            pool,
            installation,
            shards: stored,
            incarnations,
            partitions,
            archived,
            wake: Wake::new(stored),
            series: Arc::new(SeriesCache::new(stored)),
            doubts,
        })
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

    /// Which incarnation this is, and what is known of those before it.
    pub fn incarnations(&self) -> &Incarnations {
        &self.incarnations
    }

    /// Looks whether it still is that incarnation: a pooler may change servers behind a
    /// connection, which all others look at when they make it.
    pub async fn check_incarnation(&self) -> Result<(), sqlx::Error> {
        answered_soon(async { self.incarnations.check(&mut *self.pool.acquire().await?).await })
            .await
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
        self.partitions.ensure_ahead(&self.pool, self.incarnations.number(), now).await
    }

    /// Makes sure that the months of `times` have their partitions.
    pub async fn ensure_partitions(
        &self,
        times: impl Iterator<Item = chrono::DateTime<chrono::Utc>>,
    ) -> Result<(), sqlx::Error> {
        self.partitions.ensure(&self.pool, self.incarnations.number(), times).await
    }

    /// Appends to one shard in a transaction of its own and wakes its readers.
    pub async fn append(
        &self,
        shard: i16,
        events: &[crate::event::Event],
    ) -> Result<Appended, AppendError> {
        self.append_on(&mut GuardedConnection::for_one_question(), shard, events, &[]).await
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

    /// The same for who appends one batch after the other, some of which is traced.
    pub async fn append_on(
        &self,
        held: &mut GuardedConnection,
        shard: i16,
        events: &[crate::event::Event],
        traced: &[TracedEvents],
    ) -> Result<Appended, AppendError> {
        let times = || events.iter().map(|event| event.occurred_at);
        self.ensure_partitions(times()).await?;
        match self.append_once(held, shard, events, traced).await {
            Err(AppendError::NoPartition) => {
                self.partitions.forget(times());
                self.ensure_partitions(times()).await?;
            }
            Err(AppendError::Restored) => self.series.forget(shard),
            appended => return appended,
        }
        self.append_once(held, shard, events, traced).await
    }

    async fn append_once(
        &self,
        held: &mut GuardedConnection,
        shard: i16,
        events: &[crate::event::Event],
        traced: &[TracedEvents],
    ) -> Result<Appended, AppendError> {
        let doubts = usize::try_from(shard).ok().and_then(|shard| self.doubts.get(shard));
        let doubt = doubts.map_or(0, |doubts| doubts.load(Ordering::Relaxed));
        let expect = if doubt == 0 { Expect::New } else { Expect::Duplicates };
        let known = self.series.look_up(shard, readings(events));
        let numbers: Option<Vec<i32>> = known.numbers.iter().copied().collect();
        let appended = match numbers {
            // One statement is a transaction of its own: one round trip.
            Some(numbers) => {
                let named = Named { numbers: &numbers, by: known.by, traced };
                timeouts::on_connection(&self.pool, held, async |connection| {
                    append_named(connection, shard, events, named, expect).await
                })
                .await
            }
            None => self.append_unknown(held, shard, (events, traced), known, expect).await,
        };
        if matches!(appended, Err(AppendError::Archived)) {
            // So that a resend is refused before it is queued.
            self.reload_archived().await?;
        }
        let appended = appended?;
        held.timeout.reset();
        if let Some(doubts) = doubts {
            let met = appended.stored() < events.len();
            let doubt = if met { APPENDS_IN_DOUBT } else { doubt.saturating_sub(1) };
            doubts.store(doubt, Ordering::Relaxed);
        }
        if let Some(last) = appended.positions.iter().rev().find_map(|position| *position) {
            self.incarnations.acknowledged(shard, last, appended.recorded_at);
            self.wake.appended(shard, events);
        }
        Ok(appended)
    }

    /// Appends readings of series that this process does not know, and knows them then.
    async fn append_unknown(
        &self,
        held: &mut GuardedConnection,
        shard: i16,
        (events, traced): (&[crate::event::Event], &[TracedEvents]),
        mut known: series::Known,
        expect: Expect,
    ) -> Result<Appended, AppendError> {
        let named = timeouts::on_connection(&self.pool, held, async |connection| {
            append_naming(connection, shard, events, traced, expect).await
        });
        let (appended, numbers, by) = named.await?;
        known.numbers = numbers.into_iter().map(Some).collect();
        if let Some(by) = by {
            self.series.remember(shard, &known, by);
        }
        Ok(appended)
    }
}
