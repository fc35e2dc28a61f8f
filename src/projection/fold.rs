//! A projection's SQL, and the worker that folds by it.
//!
//! Guarantees that tables are folded by the text that made them.

use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction};

use crate::consumer::{Consumer, ConsumerError, Follows};
use crate::log::Window;

/// The most positions of one step: bounds how long a step holds its row locks.
const WINDOW_POSITIONS_MAX: i64 = 20_000;

/// A fold that is not read may be so far behind under load.
const PACE_MS_MAX: u64 = 1_000;

/// How long a fold that is not waited for rests, each 256 positions of its scan.
const REST_MS: u64 = 2;

/// One snapshot, in which nothing is written.
pub const SNAPSHOT: &str = "begin isolation level repeatable read read only";

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
    pub(super) tables: &'static [&'static str],
    /// Makes its tables.
    pub schema: &'static str,
    pub(super) apply: &'static str,
    pub(super) check: &'static str,
    pub(super) carry: Option<&'static str>,
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
    pub(super) fn sql_hash(&self) -> String {
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
pub async fn begin_snapshot(
    pool: &PgPool,
    begin: &str,
    tables: &[&str],
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut tables = tables.to_vec();
    tables.sort_unstable();
    let sql = format!("{begin}; lock table {} in access share mode", tables.join(", "));
    pool.begin_with(AssertSqlSafe(sql)).await
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

    fn pace_max(&self) -> Duration {
        Duration::from_millis(PACE_MS_MAX)
    }

    fn rest(&self) -> Duration {
        Duration::from_millis(REST_MS)
    }

    async fn act(&self, tx: &mut PgConnection, window: &Window) -> Result<(), ConsumerError> {
        self.0.apply_live(tx, window).await
    }
}
