//! Checking a projection against the log.
//!
//! Guarantees that no difference is reported that was not there at one moment: table,
//! checkpoint and log are read in one snapshot. Leaves out who is parked: of them the
//! table holds what it held before. Does not mend anything: that is `vitals rebuild`.

use futures_util::{StreamExt, TryStreamExt};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction};

use super::fold::{Projection, SNAPSHOT, begin_snapshot};
use crate::consumer::leave_out;

/// How many differing rows are reported of a shard.
const DIFFERENCES_MAX: usize = 100;

/// A row that is not what the log says.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Difference {
    /// Which row: tenant, patient, and what else is its key, with slashes between them.
    pub key: String,
    /// What the log says, if it says anything.
    pub expected: Option<String>,
    /// What the table holds, if it holds anything.
    pub found: Option<String>,
}

/// Compares a projection's rows of one shard with the log, at its checkpoint.
/// Returns that position and the first differences.
pub async fn check(
    pool: &PgPool,
    projection: &Projection,
    shard: i16,
) -> Result<(i64, Vec<Difference>), sqlx::Error> {
    let mut tx = begin(pool, projection).await?;
    let checked = differences(&mut tx, projection, shard, None).await;
    tx.rollback().await?;
    checked
}

/// Begins a look at all that a check compares. A month that is exchanged meanwhile would
/// look empty, as a table would that is swapped in.
pub(super) async fn begin(
    pool: &PgPool,
    projection: &Projection,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    // Tables that another text made may not be all that ours makes.
    let standing: Vec<String> = sqlx::query_scalar(
        "select name from unnest($1::text[]) as n (name) where to_regclass(name) is not null",
    )
    .bind(projection.tables)
    .fetch_all(pool)
    .await?;
    let mut tables: Vec<&str> = standing.iter().map(String::as_str).collect();
    tables.extend(["reading", "non_reading"]);
    begin_snapshot(pool, SNAPSHOT, &tables).await
}

/// The same for some patients (tenants and ids) only, in a transaction of the caller that
/// [`begin`] began.
pub async fn check_patients(
    tx: &mut PgConnection,
    projection: &Projection,
    shard: i16,
    patients: (&[String], &[String]),
) -> Result<Vec<Difference>, sqlx::Error> {
    Ok(differences(tx, projection, shard, Some(patients)).await?.1)
}

async fn differences(
    tx: &mut PgConnection,
    projection: &Projection,
    shard: i16,
    patients: Option<(&[String], &[String])>,
) -> Result<(i64, Vec<Difference>), sqlx::Error> {
    // One plan for all patients and another one for some.
    sqlx::query("set local plan_cache_mode = force_custom_plan").execute(&mut *tx).await?;
    let (position, made_by, stored): (i64, String, Option<String>) = sqlx::query_as(
        "select c.position, p.sql_hash, p.check_sql from checkpoint c, projection p \
         where c.shard = $1 and c.consumer = $2 and p.name = $3",
    )
    .bind(shard)
    .bind(projection.consumer)
    .bind(projection.name)
    .fetch_one(&mut *tx)
    .await?;
    let parked: Vec<(String, String)> =
        sqlx::query_as("select tenant, patient_id from parked where shard = $1 and consumer = $2")
            .bind(shard)
            .bind(projection.consumer)
            .fetch_all(&mut *tx)
            .await?;
    if !parked.is_empty() {
        leave_out(tx, projection.consumer).await?;
    }
    let is_parked = |difference: &Difference| {
        let mut key = difference.key.splitn(3, '/');
        let whose = key.next().zip(key.next());
        parked.iter().any(|(tenant, id)| whose == Some((&**tenant, &**id)))
    };
    // Tables are checked by the text that goes with the one that made them.
    let sql = match stored {
        Some(stored) if made_by != projection.sql_hash() => stored,
        _ => projection.check.to_owned(),
    };
    // Row by row: a table that is wholly wrong must not be held in memory.
    let (tenants, ids) = patients.unzip();
    let found: Vec<Difference> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(shard)
        .bind(position)
        .bind(tenants)
        .bind(ids)
        .fetch(&mut *tx)
        .try_filter(|difference| std::future::ready(!is_parked(difference)))
        .take(DIFFERENCES_MAX)
        .try_collect()
        .await?;
    Ok((position, found))
}
