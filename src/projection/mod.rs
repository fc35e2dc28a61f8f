//! Projections: tables folded from the log by SQL.
//!
//! A projection is a folder `projections/NAME/`, and nothing else: `schema.sql` makes its
//! tables, `apply.sql` folds a window of one shard into them and says in its first lines
//! what it follows and its pace, `check.sql` recomputes them from the log by another road
//! and returns what differs, and `carry.sql`, if there is one, takes over what the log no
//! longer holds. `build.rs` makes the list.
//!
//! Guarantees that a table is exactly the fold of its shard up to its checkpoint,
//! whatever the batches were, but for patients that are parked; that changed SQL leads to
//! a rebuild, and that until then the old text goes on folding the old tables. Does not
//! guarantee that a table is up to date: readers compare checkpoint and head.

mod check;
mod rebuild;
mod self_check;

use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction};

use crate::consumer::{Consumer, ConsumerError, Follows, Step, register, step};
use crate::log::{Log, Window};

pub use check::{Difference, check, check_patients};
pub use rebuild::{RebuildError, Rebuilt, compare, rebuild};
pub use self_check::{check_always, check_some, drifting};

/// The most positions of one step: bounds how long a step holds its row locks.
const WINDOW_POSITIONS_MAX: i64 = 20_000;

/// A fold that nobody reads may be so far behind under load.
const PATIENCE_MS: u64 = 1_000;

/// How long a fold that nobody waits for rests, each 256 positions of its scan.
const REST_MS: u64 = 2;

/// One snapshot, in which nothing is written.
pub const SNAPSHOT: &str = "begin isolation level repeatable read read only";

/// How long to wait before looking whether another instance has rebuilt.
const BUSY_PAUSE_MS: u64 = 500;

/// A projection's SQL.
#[derive(Debug, PartialEq, Eq)]
pub struct Projection {
    /// Of the folder.
    pub name: &'static str,
    /// The checkpoint's name.
    pub consumer: &'static str,
    /// What its rows come from.
    pub follows: Follows,
    /// A fold of many readings into few rows is worth more than its latency: so much
    /// is let come in first, unless a reader waits.
    pace_ms: u64,
    /// What `schema` makes, by name.
    tables: &'static [&'static str],
    /// Makes its tables.
    pub schema: &'static str,
    apply: &'static str,
    check: &'static str,
    carry: Option<&'static str>,
}

include!(concat!(env!("OUT_DIR"), "/projections.rs"));

/// The projection of a name.
pub fn named(name: &str) -> Option<&'static Projection> {
    ALL.iter().find(|p| p.name == name)
}

impl Projection {
    /// Folds a window into the tables that the connection's `search_path` finds.
    pub async fn apply(
        &self,
        connection: &mut PgConnection,
        window: &Window,
    ) -> Result<(), sqlx::Error> {
        fold(connection, window, sqlx::query(self.apply)).await
    }

    /// The same into the live tables, by the text that made them.
    async fn apply_live(
        &self,
        connection: &mut PgConnection,
        window: &Window,
    ) -> Result<(), ConsumerError> {
        // Read under the checkpoint's lock, which a swap takes as well.
        let (made_by, apply): (String, Option<String>) =
            sqlx::query_as("select sql_hash, apply_sql from projection where name = $1")
                .bind(self.name)
                .fetch_one(&mut *connection)
                .await?;
        match apply {
            _ if made_by == self.sql_hash() => self.apply(connection, window).await?,
            Some(apply) => {
                // Written by a program of another version, from a folder as ours.
                fold(connection, window, sqlx::query(AssertSqlSafe(apply))).await?;
            }
            None => return Err(ConsumerError::Outdated(self.name)),
        }
        Ok(())
    }

    /// The fold itself: a statement over a shard, positions and times.
    pub fn apply_sql(&self) -> &'static str {
        self.apply
    }

    /// The check itself: a statement over a shard, a position and patients, or all.
    pub fn check_sql(&self) -> &'static str {
        self.check
    }

    /// What its tables are made by: another text means other tables.
    fn sql_hash(&self) -> String {
        let digest = Sha256::new().chain_update(self.schema).chain_update(self.apply).finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

async fn fold(
    connection: &mut PgConnection,
    window: &Window,
    apply: Query<'_>,
) -> Result<(), sqlx::Error> {
    apply
        .bind(window.shard)
        .bind(window.after)
        .bind(window.to)
        .bind(window.since)
        .bind(window.until)
        .execute(connection)
        .await?;
    Ok(())
}

/// Begins a look at several tables, or at one beside its checkpoint: all as they are in one
/// snapshot. `begin` begins it and takes no snapshot.
///
/// Tables are locked before the snapshot, to which one that is swapped in later would look
/// empty; and by name, as a swap takes them, so that neither holds one table while it waits
/// for another that the other has.
pub async fn look(
    pool: &PgPool,
    begin: &str,
    tables: &[&str],
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut tables = tables.to_vec();
    tables.sort_unstable();
    let sql = format!("{begin}; lock table {} in access share mode", tables.join(", "));
    pool.begin_with(AssertSqlSafe(sql)).await
}

/// Makes the tables of projections that are new, and rebuilds those whose SQL has
/// changed. Several instances may start at once; one does the work.
pub async fn install(log: &Log) -> Result<(), RebuildError> {
    create(log).await?;
    renew(log).await
}

/// Makes the tables of projections that are new. Those of another text stay as they are,
/// and are folded by it.
pub async fn create(log: &Log) -> Result<(), sqlx::Error> {
    for projection in &ALL {
        let mut tx = log.pool().begin().await?;
        sqlx::query("select pg_advisory_xact_lock(hashtext('vitals projections'))")
            .execute(&mut *tx)
            .await?;
        match made_by(&mut tx, projection).await? {
            None => {
                sqlx::raw_sql(projection.schema).execute(&mut *tx).await?;
                remember(&mut tx, projection).await?;
                register(&mut tx, projection.consumer, log.shards()).await?;
            }
            Some(hash)
                if hash == projection.sql_hash() && !keeps_text(&mut tx, projection).await? =>
            {
                remember(&mut tx, projection).await?;
            }
            Some(_) => {}
        }
        tx.commit().await?;
    }
    Ok(())
}

/// Rebuilds the projections whose SQL has changed, one after the other, while the old
/// tables are read.
pub async fn renew(log: &Log) -> Result<(), RebuildError> {
    for projection in &ALL {
        loop {
            let made_by = made_by(&mut *log.pool().acquire().await?, projection).await?;
            if made_by == Some(projection.sql_hash()) {
                break;
            }
            tracing::info!(projection = projection.name, "its SQL has changed: rebuilding");
            match rebuild(log, projection, |_, _| {}).await {
                // Another instance started at the same time: wait for its result.
                Err(RebuildError::Busy(_)) => {
                    tokio::time::sleep(Duration::from_millis(BUSY_PAUSE_MS)).await;
                }
                rebuilt => {
                    let positions = rebuilt?.positions;
                    tracing::info!(projection = projection.name, positions, "rebuilt");
                }
            }
        }
    }
    Ok(())
}

/// The hash of the text that made a projection's tables; `None` when there are none.
async fn made_by(
    connection: &mut PgConnection,
    projection: &Projection,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("select sql_hash from projection where name = $1")
        .bind(projection.name)
        .fetch_optional(connection)
        .await
}

/// Whether the text is kept that made a projection's tables: an old version did not.
async fn keeps_text(
    connection: &mut PgConnection,
    projection: &Projection,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select apply_sql is not null and check_sql is not null from projection where name = $1",
    )
    .bind(projection.name)
    .fetch_one(connection)
    .await
}

async fn remember(
    connection: &mut PgConnection,
    projection: &Projection,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into projection (name, sql_hash, apply_sql, check_sql) values ($1, $2, $3, $4) \
         on conflict (name) do update set sql_hash = excluded.sql_hash, \
             apply_sql = excluded.apply_sql, check_sql = excluded.check_sql",
    )
    .bind(projection.name)
    .bind(projection.sql_hash())
    .bind(projection.apply)
    .bind(projection.check)
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether consumers have dealt with all that matters to them up to `heads`: `whole`
/// with every event, `sparse` with every one that is no reading. And the heads: those of
/// now if none are given.
pub async fn caught_up(
    pool: &PgPool,
    (shards, heads): (&[i16], Option<&[i64]>),
    whole: &[&str],
    sparse: &[&str],
) -> Result<(Vec<i64>, bool), sqlx::Error> {
    if sparse.is_empty() {
        let query = sqlx::query_as(include_str!("caught_up_whole.sql"));
        return query.bind(shards).bind(heads).bind(whole).fetch_one(pool).await;
    }
    let query = sqlx::query_as(include_str!("caught_up.sql"));
    query.bind(shards).bind(heads).bind(whole).bind(sparse).fetch_one(pool).await
}

/// Folds what no worker has folded yet, up to the head as it is when it gets there.
/// Workers may run at the same time: whoever holds a shard folds it.
pub async fn catch_up(log: &Log) -> Result<(), ConsumerError> {
    for projection in &ALL {
        for shard in log.shards() {
            while step(log.pool(), &Apply(projection), shard).await? == Step::Behind {}
        }
    }
    Ok(())
}

/// The worker that keeps a projection up to date.
pub struct Apply(pub &'static Projection);

impl Consumer for Apply {
    type Done = ();

    #[allow(clippy::misnamed_getters, reason = "a consumer's name is its checkpoint's")]
    fn name(&self) -> &str {
        self.0.consumer
    }

    fn window_positions_max(&self) -> i64 {
        WINDOW_POSITIONS_MAX
    }

    fn follows(&self) -> Follows {
        self.0.follows
    }

    fn pace(&self) -> Duration {
        Duration::from_millis(self.0.pace_ms)
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(PATIENCE_MS)
    }

    fn rest(&self) -> Duration {
        Duration::from_millis(REST_MS)
    }

    async fn act(&self, tx: &mut PgConnection, window: &Window) -> Result<(), ConsumerError> {
        self.0.apply_live(tx, window).await
    }
}
