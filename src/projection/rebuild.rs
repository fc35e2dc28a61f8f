//! Rebuilding a projection from the log, beside the live one.
//!
//! Guarantees that readers see the old tables until the new ones are complete, and
//! then the new ones; that both stood at the same positions when they were compared;
//! and that a rebuild that dies is taken up where it was by the next one of the same
//! SQL. Does not stop appends, and stops the live fold only for the swap. Who is parked
//! is tried anew, and who cannot be folded is parked again.

mod fold;
mod swap;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::fold::Projection;
use crate::consumer::ConsumerError;
use crate::log::Log;

/// Why a rebuild stopped. The live tables are as they were.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// PostgreSQL said no, or is gone.
    #[error("rebuilding: {0}")]
    Database(#[from] sqlx::Error),
    /// A window cannot be folded, and not because of its events.
    #[error("rebuilding: {0}")]
    Fold(#[from] ConsumerError),
    /// One at a time.
    #[error("projection {0} is being rebuilt by another process: wait for it to finish")]
    Busy(&'static str),
    /// The new tables stay, and the next rebuild goes on with them.
    #[error(
        "projection {0} was in use whenever it was to be swapped: run this again when no long \
         question (vitals verify) is under way"
    )]
    InUse(&'static str),
}

/// What a rebuild did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Positions that the new tables stand at, over all shards.
    pub positions: i64,
    /// Of them, those that were folded now and not by a rebuild that was ended before.
    pub folded: i64,
    /// Rows that the live tables had otherwise. `None` when the SQL has changed and
    /// there is nothing to compare.
    pub differing: Option<i64>,
}

/// What becomes of the new tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Replace,
    Compare,
}

/// Folds the log into new tables, compares them with the live ones, swaps.
///
/// `progress` is told the positions folded and those to fold.
pub async fn rebuild(
    log: &Log,
    projection: &'static Projection,
    progress: impl FnMut(i64, i64),
) -> Result<Rebuilt, RebuildError> {
    beside(log, projection, Purpose::Replace, progress).await
}

/// Folds the log into new tables, compares them with the live ones, and drops them.
pub async fn compare(
    log: &Log,
    projection: &'static Projection,
    progress: impl FnMut(i64, i64),
) -> Result<Rebuilt, RebuildError> {
    beside(log, projection, Purpose::Compare, progress).await
}

async fn beside(
    log: &Log,
    projection: &'static Projection,
    purpose: Purpose,
    mut progress: impl FnMut(i64, i64),
) -> Result<Rebuilt, RebuildError> {
    let beside = Beside::new(projection);
    // A connection of its own, closed at the end: it holds a session lock and
    // another search_path, and the pool must get neither.
    let mut connection = beside.connect(log).await?;
    let locked: bool = sqlx::query_scalar("select pg_try_advisory_lock(hashtext($1))")
        .bind(projection.consumer)
        .fetch_one(&mut connection)
        .await?;
    if !locked {
        return Err(RebuildError::Busy(projection.name));
    }
    let mut reached = beside.begin(log, &mut connection).await?;
    let before: i64 = reached.iter().map(|(_, position)| position).sum();
    beside.fold(log, &mut connection, &mut reached, &mut progress).await?;
    let (positions, differing) = beside.swap(log, &mut connection, reached, purpose).await?;
    // By the session's end it would be free as well, but later than who asked is told.
    run(&mut connection, "select pg_advisory_unlock_all()").await?;
    connection.close().await?;
    Ok(Rebuilt { positions, folded: positions - before, differing })
}

/// A projection whose new tables stand in a schema of their own.
struct Beside {
    projection: &'static Projection,
    /// Where the new tables are.
    schema: String,
    /// By whom patients are parked meanwhile.
    consumer: String,
}

impl Beside {
    fn new(projection: &'static Projection) -> Beside {
        let (schema, consumer) =
            (format!("rebuild_{}", projection.name), format!("rebuild:{}", projection.name));
        Beside { projection, schema, consumer }
    }

    /// A connection that finds the new tables first. What is folded is on disk with the
    /// swap at the latest, and until then it can be folded again.
    async fn connect(&self, log: &Log) -> Result<PgConnection, sqlx::Error> {
        let mut connection = log.pool().acquire().await?.detach();
        let schema = &self.schema;
        run(
            &mut connection,
            &format!(
                "set search_path = {schema}, public; set statement_timeout = 0; \
                 set synchronous_commit = off"
            ),
        )
        .await?;
        Ok(connection)
    }

    /// Takes up what a rebuild by the same SQL has left, or begins anew. How far each
    /// shard is folded.
    async fn begin(
        &self,
        log: &Log,
        connection: &mut PgConnection,
    ) -> Result<Vec<(i16, i64)>, sqlx::Error> {
        let (name, schema, hash) = (self.projection.name, &self.schema, self.projection.sql_hash());
        let left: Vec<(i16, i64)> = sqlx::query_as(
            "select shard, position from rebuilding \
             where name = $1 and sql_hash = $2 and to_regnamespace($3) is not null order by shard",
        )
        .bind(name)
        .bind(&hash)
        .bind(schema)
        .fetch_all(&mut *connection)
        .await?;
        if left.len() == log.shards().count() {
            return Ok(left);
        }
        let mut tx = connection.begin().await?;
        run(&mut tx, &format!("drop schema if exists {schema} cascade; create schema {schema}"))
            .await?;
        sqlx::raw_sql(self.projection.schema).execute(&mut *tx).await?;
        sqlx::query("delete from parked where consumer = $1")
            .bind(&self.consumer)
            .execute(&mut *tx)
            .await?;
        sqlx::query("delete from rebuilding where name = $1").bind(name).execute(&mut *tx).await?;
        sqlx::query(
            "insert into rebuilding (name, shard, sql_hash) select $1, unnest($2::smallint[]), $3",
        )
        .bind(name)
        .bind(log.shards().collect::<Vec<i16>>())
        .bind(&hash)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(log.shards().map(|shard| (shard, 0)).collect())
    }
}

/// Statements whose names come from the registry, never from outside.
async fn run(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(|_| ())
}
