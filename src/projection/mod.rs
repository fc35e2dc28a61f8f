//! Projections: tables folded from the log by SQL.
//!
//! A projection is a folder `projections/NAME/` of three statements: `schema.sql`
//! makes its tables, `apply.sql` folds a window of one shard into them, `check.sql`
//! recomputes them from the log by another road and returns what differs.
//!
//! Guarantees that a table is exactly the fold of its shard up to its checkpoint,
//! whatever the batches were, and that changed SQL leads to a rebuild. Does not
//! guarantee that a table is up to date: readers compare checkpoint and head.

mod check;
mod rebuild;

use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};

use crate::consumer::{Consumer, ConsumerError, register};
use crate::log::{Log, Window};

pub use check::{Difference, check};
pub use rebuild::{RebuildError, Rebuilt, rebuild};

/// The most positions of one step: bounds how long a step holds its row locks.
const WINDOW_POSITIONS_MAX: i64 = 20_000;
/// Under steady load a fold is worth more than its latency: steps are this far
/// apart, so that each folds many readings into few rows.
const PACE_MS: u64 = 20;

/// A projection's SQL.
#[derive(Debug, PartialEq, Eq)]
pub struct Projection {
    /// Of the folder.
    pub name: &'static str,
    /// The checkpoint's name.
    pub consumer: &'static str,
    schema: &'static str,
    apply: &'static str,
    check: &'static str,
}

macro_rules! projection {
    ($name:literal) => {
        Projection {
            name: $name,
            consumer: concat!("projection:", $name),
            schema: include_str!(concat!("../../projections/", $name, "/schema.sql")),
            apply: include_str!(concat!("../../projections/", $name, "/apply.sql")),
            check: include_str!(concat!("../../projections/", $name, "/check.sql")),
        }
    };
}

/// The newest reading of every vital.
pub const CURRENT_VITALS: Projection = projection!("current_vitals");
/// Alerts and what became of them.
pub const ALERT: Projection = projection!("alert");
/// The directory of patients.
pub const PATIENT: Projection = projection!("patient");

/// Every projection.
pub static ALL: [Projection; 3] = [CURRENT_VITALS, ALERT, PATIENT];

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
        sqlx::query(self.apply)
            .bind(window.shard)
            .bind(window.after)
            .bind(window.to)
            .bind(window.since)
            .bind(window.until)
            .execute(connection)
            .await?;
        Ok(())
    }

    /// What its tables are made by: another text means other tables.
    fn sql_hash(&self) -> String {
        let digest = Sha256::new().chain_update(self.schema).chain_update(self.apply).finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Makes the tables of projections that are new, and rebuilds those whose SQL has
/// changed. Several instances may start at once; one does the work.
pub async fn install(log: &Log) -> Result<(), RebuildError> {
    for projection in &ALL {
        if !create(log, projection).await? {
            tracing::info!(projection = projection.name, "its SQL has changed: rebuilding");
            rebuild(log, projection, |_, _| {}).await?;
        }
    }
    Ok(())
}

/// Makes a new projection's tables. `false` when it exists by another text.
async fn create(log: &Log, projection: &Projection) -> Result<bool, sqlx::Error> {
    let mut tx = log.pool().begin().await?;
    sqlx::query("select pg_advisory_xact_lock(hashtext('vitals projections'))")
        .execute(&mut *tx)
        .await?;
    let stored: Option<String> =
        sqlx::query_scalar("select sql_hash from projection where name = $1")
            .bind(projection.name)
            .fetch_optional(&mut *tx)
            .await?;
    if let Some(stored) = stored {
        tx.rollback().await?;
        return Ok(stored == projection.sql_hash());
    }
    sqlx::raw_sql(projection.schema).execute(&mut *tx).await?;
    remember(&mut tx, projection).await?;
    register(&mut tx, projection.consumer, log.shards()).await?;
    tx.commit().await?;
    Ok(true)
}

async fn remember(
    connection: &mut PgConnection,
    projection: &Projection,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into projection (name, sql_hash) values ($1, $2) \
         on conflict (name) do update set sql_hash = excluded.sql_hash",
    )
    .bind(projection.name)
    .bind(projection.sql_hash())
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether every projection has folded all that was committed in `shards` when
/// this was asked.
pub async fn caught_up(
    pool: &PgPool,
    shards: &[i16],
    heads: &[i64],
    consumers: &[&str],
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select not exists (select from checkpoint c \
            join unnest($1::smallint[], $2::bigint[]) as h (shard, position) using (shard) \
         where c.consumer = any($3) and c.position < h.position)",
    )
    .bind(shards)
    .bind(heads)
    .bind(consumers)
    .fetch_one(pool)
    .await
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

    fn pace(&self) -> Duration {
        Duration::from_millis(PACE_MS)
    }

    async fn act(&self, tx: &mut PgConnection, window: &Window) -> Result<(), ConsumerError> {
        Ok(self.0.apply(tx, window).await?)
    }
}
