//! Rebuilding a projection from the log, beside the live one.
//!
//! Guarantees that readers see the old tables until the new ones are complete, and
//! then the new ones; that both stood at the same positions when they were
//! compared; and that a rebuild that dies leaves nothing behind that matters.
//! Does not stop appends, and stops the live fold only for the swap.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{Projection, remember};
use crate::consumer::register;
use crate::log::{Log, Window};

/// Positions folded per transaction: enough to fold well, little enough to show
/// progress and to keep memory bounded.
const WINDOW_POSITIONS_MAX: i64 = 50_000;

/// When no more than this was left, one more round reaches the head, and what comes
/// during it is little enough for the swap, which makes the live fold wait.
const SWAP_POSITIONS_MAX: i64 = 20_000;

/// Why a rebuild stopped. The live tables are as they were.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// PostgreSQL said no, or is gone.
    #[error("rebuilding: {0}")]
    Database(#[from] sqlx::Error),
    /// One at a time.
    #[error("projection {0} is being rebuilt by another process: wait for it to finish")]
    Busy(&'static str),
}

/// What a rebuild did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Positions folded, over all shards.
    pub positions: i64,
    /// Rows that the live tables had otherwise. `None` when the SQL has changed and
    /// there is nothing to compare.
    pub differing: Option<i64>,
}

/// Folds the log into new tables, compares them with the live ones, swaps.
///
/// `progress` is told the positions folded and those to fold.
pub async fn rebuild(
    log: &Log,
    projection: &'static Projection,
    mut progress: impl FnMut(i64, i64),
) -> Result<Rebuilt, RebuildError> {
    // A connection of its own, closed at the end: it holds a session lock and
    // another search_path, and the pool must get neither.
    let mut connection = log.pool().acquire().await?.detach();
    let locked: bool = sqlx::query_scalar("select pg_try_advisory_lock(hashtext($1))")
        .bind(projection.consumer)
        .fetch_one(&mut connection)
        .await?;
    if !locked {
        return Err(RebuildError::Busy(projection.name));
    }
    let schema = format!("rebuild_{}", projection.name);
    run(
        &mut connection,
        &format!(
            "drop schema if exists {schema} cascade; create schema {schema}; \
         set search_path = {schema}, public"
        ),
    )
    .await?;
    sqlx::raw_sql(projection.schema).execute(&mut connection).await?;

    let mut positions = fold(log, &mut connection, projection, &mut progress).await?;
    let rebuilt = swap(log, &mut connection, projection, &schema, &mut positions).await?;
    connection.close().await?;
    Ok(rebuilt)
}

/// Brings the new tables to the head of every shard, as it is when they get there.
async fn fold(
    log: &Log,
    connection: &mut PgConnection,
    projection: &Projection,
    progress: &mut impl FnMut(i64, i64),
) -> Result<Vec<(i16, i64)>, sqlx::Error> {
    let mut reached: Vec<(i16, i64)> = log.shards().map(|shard| (shard, 0)).collect();
    let mut folded = 0;
    // Again and again, because the log grows meanwhile: what is left for the swap,
    // which stops the live fold, must be little.
    loop {
        let heads: Vec<(i16, i64)> =
            sqlx::query_as("select shard, position from shard_head order by shard")
                .fetch_all(&mut *connection)
                .await?;
        let total: i64 = heads.iter().map(|(_, head)| head).sum();
        let last = total - folded <= SWAP_POSITIONS_MAX;
        for (at, &(shard, head)) in reached.iter_mut().zip(&heads) {
            while at.1 < head {
                let to = head.min(at.1 + WINDOW_POSITIONS_MAX);
                advance(connection, projection, shard, at.1, to).await?;
                folded += to - at.1;
                at.1 = to;
                progress(folded, total);
            }
        }
        if last {
            return Ok(reached);
        }
    }
}

async fn advance(
    connection: &mut PgConnection,
    projection: &Projection,
    shard: i16,
    after: i64,
    to: i64,
) -> Result<(), sqlx::Error> {
    let mut at = after;
    while at < to {
        let next = to.min(at + WINDOW_POSITIONS_MAX);
        let window = Window::between(connection, shard, at, next).await?;
        projection.apply(connection, &window).await?;
        at = next;
    }
    Ok(())
}

async fn swap(
    log: &Log,
    connection: &mut PgConnection,
    projection: &Projection,
    schema: &str,
    positions: &mut [(i16, i64)],
) -> Result<Rebuilt, sqlx::Error> {
    let mut tx = connection.begin().await?;
    register(&mut tx, projection.consumer, log.shards()).await?;
    // From here the live fold waits.
    let live: Vec<(i16, i64)> = sqlx::query_as(
        "select shard, position from checkpoint where consumer = $1 order by shard for update",
    )
    .bind(projection.consumer)
    .fetch_all(&mut *tx)
    .await?;
    let stored: Option<String> =
        sqlx::query_scalar("select sql_hash from projection where name = $1")
            .bind(projection.name)
            .fetch_optional(&mut *tx)
            .await?;
    let comparable = stored.as_deref() == Some(&*projection.sql_hash());
    for ((shard, rebuilt), (_, live)) in positions.iter_mut().zip(live) {
        advance(&mut tx, projection, *shard, *rebuilt, live).await?;
        if comparable && live < *rebuilt {
            run(&mut tx, "set local search_path = public").await?;
            advance(&mut tx, projection, *shard, live, *rebuilt).await?;
            run(&mut tx, &format!("set local search_path = {schema}, public")).await?;
        }
        *rebuilt = live.max(*rebuilt);
        sqlx::query("update checkpoint set position = $3 where consumer = $1 and shard = $2")
            .bind(projection.consumer)
            .bind(*shard)
            .bind(*rebuilt)
            .execute(&mut *tx)
            .await?;
    }
    let differing = replace_tables(&mut tx, schema, comparable).await?;
    remember(&mut tx, projection).await?;
    run(&mut tx, &format!("drop schema {schema}")).await?;
    tx.commit().await?;
    Ok(Rebuilt { positions: positions.iter().map(|(_, p)| p).sum(), differing })
}

/// Puts every table of `schema` in the place of the live one; counts the rows in
/// which they differ.
async fn replace_tables(
    tx: &mut PgConnection,
    schema: &str,
    comparable: bool,
) -> Result<Option<i64>, sqlx::Error> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relkind = 'r' and relnamespace = $1::regnamespace",
    )
    .bind(schema)
    .fetch_all(&mut *tx)
    .await?;
    let mut differing = 0;
    for table in &tables {
        if comparable {
            // As text: json has no equality, and a float's text is exact.
            let (new, live) = (format!("{schema}.{table}"), format!("public.{table}"));
            let sql = format!(
                "select (select count(*) from (select x::text from {new} x except all select x::text from {live} x) a) \
                      + (select count(*) from (select x::text from {live} x except all select x::text from {new} x) b)"
            );
            let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *tx).await?;
            differing += count;
        }
        run(tx, &format!(
            "drop table if exists public.{table}; alter table {schema}.{table} set schema public"
        )).await?;
    }
    Ok(comparable.then_some(differing))
}

/// Statements whose names come from the registry, never from outside.
async fn run(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(|_| ())
}
