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

use crate::consumer::{Consumer, ConsumerError, Follows, Step, register, step};
use crate::log::{Log, Window};

pub use check::{Difference, check};
pub use rebuild::{RebuildError, Rebuilt, rebuild};

/// The most positions of one step: bounds how long a step holds its row locks.
const WINDOW_POSITIONS_MAX: i64 = 20_000;

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
    /// Under steady load a fold is worth more than its latency: steps are this far
    /// apart, so that each folds many readings into few rows.
    pace_ms: u64,
    schema: &'static str,
    apply: &'static str,
    check: &'static str,
}

macro_rules! projection {
    ($name:literal, $follows:ident, $pace_ms:literal) => {
        Projection {
            name: $name,
            consumer: concat!("projection:", $name),
            follows: Follows::$follows,
            pace_ms: $pace_ms,
            schema: include_str!(concat!("../../projections/", $name, "/schema.sql")),
            apply: include_str!(concat!("../../projections/", $name, "/apply.sql")),
            check: include_str!(concat!("../../projections/", $name, "/check.sql")),
        }
    };
}

/// The newest reading of every vital.
pub const CURRENT_VITALS: Projection = projection!("current_vitals", Everything, 50);
/// Alerts and what became of them.
pub const ALERT: Projection = projection!("alert", Happenings, 5);
/// The directory of patients.
pub const PATIENT: Projection = projection!("patient", Everything, 250);

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
        while !create(log, projection).await? {
            tracing::info!(projection = projection.name, "its SQL has changed: rebuilding");
            match rebuild(log, projection, |_, _| {}).await {
                // Another instance started at the same time: wait for its result.
                Err(RebuildError::Busy(_)) => {
                    tokio::time::sleep(Duration::from_millis(BUSY_PAUSE_MS)).await;
                }
                rebuilt => drop(rebuilt?),
            }
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

/// Whether consumers have dealt with all that matters to them up to `heads`: `whole`
/// with every event, `sparse` with every one that is no reading.
pub async fn caught_up(
    pool: &PgPool,
    (shards, heads): (&[i16], &[i64]),
    whole: &[&str],
    sparse: &[&str],
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(include_str!("caught_up.sql"))
        .bind(shards)
        .bind(heads)
        .bind(whole)
        .bind(sparse)
        .fetch_one(pool)
        .await
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

    async fn act(&self, tx: &mut PgConnection, window: &Window) -> Result<(), ConsumerError> {
        Ok(self.0.apply(tx, window).await?)
    }
}
