//! The end of a rebuild: new and live tables at the same positions, compared, swapped.
//!
//! Guarantees one transaction: before it the old tables, after it the new ones, with the
//! checkpoints that belong to them. The live fold waits meanwhile; readers wait only while
//! names are exchanged, without a deadlock: who looks at several tables takes
//! them in the same order (`projection::look`). Does not wait for ever for one who looks
//! for long.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{Beside, Purpose, RebuildError, run};
use crate::consumer::{ConsumerError, act_apart, register};
use crate::log::{Log, Window};
use crate::projection::fold::Apply;
use crate::projection::stored::{made_by, remember};

/// How long the first try waits for a table, and its readers behind it. Each further one
/// waits twice as long: the last one longer than PostgreSQL's `deadlock_timeout`, after which
/// an automatic vacuum makes way.
const LOCK_MS: u64 = 100;
/// Between two tries: those who waited get through.
const LOCK_PAUSE_MS: u64 = 500;
/// Tries, while the live fold waits.
const LOCK_TRIES_MAX: u32 = 5;
/// PostgreSQL's codes for a lock that was not obtained in time, or never would have been.
const NOT_LOCKED: [&str; 2] = ["55P03", "40P01"];

impl Beside {
    /// Compares, and swaps if that is what it is for. The positions that the new tables
    /// stood at, and in how many rows the live ones were otherwise.
    pub(super) async fn swap(
        &self,
        log: &Log,
        connection: &mut PgConnection,
        reached: Vec<(i16, i64)>,
        purpose: Purpose,
    ) -> Result<(i64, Option<i64>), RebuildError> {
        let (projection, schema) = (self.projection, &self.schema);
        let mut tx = connection.begin().await?;
        register(&mut tx, projection.consumer, log.shards()).await?;
        // From here the live fold waits.
        let live: Vec<(i16, i64)> = sqlx::query_as(
            "select shard, position from checkpoint where consumer = $1 order by shard for update",
        )
        .bind(projection.consumer)
        .fetch_all(&mut *tx)
        .await?;
        let stored = made_by(&mut tx, projection).await?;
        let comparable = stored == Some(projection.sql_hash());
        let mut positions = 0;
        for ((shard, rebuilt), (_, live)) in reached.into_iter().zip(live) {
            let at = live.max(rebuilt);
            self.advance(&mut tx, shard, rebuilt, at).await?;
            if comparable && live < at {
                run(&mut tx, "set local search_path = public").await?;
                let window = Window::between(&mut tx, shard, live, at).await?;
                act_apart(&mut tx, &Apply(projection), window).await?;
            }
            sqlx::query("update checkpoint set position = $3 where consumer = $1 and shard = $2")
                .bind(projection.consumer)
                .bind(shard)
                .bind(at)
                .execute(&mut *tx)
                .await?;
            positions += at;
        }
        self.look_here(&mut tx).await?;
        if let Some(carry) = projection.carry {
            sqlx::query(carry).execute(&mut *tx).await?;
        }
        let tables = self.tables(&mut tx).await?;
        let mut differing = comparable.then_some(0);
        for table in &tables {
            if let Some(differing) = &mut differing {
                *differing += self.count_differing(&mut tx, table).await?;
            }
        }
        if purpose == Purpose::Compare {
            tx.rollback().await?;
            self.drop_new(connection).await?;
            return Ok((positions, differing));
        }
        // What was committed with it off is on disk before the old tables go.
        run(&mut tx, "set local synchronous_commit = on").await?;
        let mut tries = 0;
        while !self.exchange(&mut tx, &tables, LOCK_MS << tries).await? {
            tries += 1;
            if tries == LOCK_TRIES_MAX {
                return Err(RebuildError::InUse(projection.name));
            }
            tokio::time::sleep(Duration::from_millis(LOCK_PAUSE_MS)).await;
        }
        remember(&mut tx, projection).await?;
        self.take_over(&mut tx).await?;
        run(&mut tx, &format!("drop schema {schema}")).await?;
        tx.commit().await?;
        Ok((positions, differing))
    }

    /// New tables for old ones; `false`, and nothing is changed, when somebody looks at
    /// them for too long.
    async fn exchange(
        &self,
        tx: &mut PgConnection,
        tables: &[String],
        lock_ms: u64,
    ) -> Result<bool, sqlx::Error> {
        let mut part = tx.begin().await?;
        let mut sql = format!("set local lock_timeout = {lock_ms}");
        // By name, as a look takes them.
        for table in tables {
            let schema = &self.schema;
            sql += &format!(
                "; drop table if exists public.{table}; alter table {schema}.{table} set schema public; \
                 select share_table('public.{table}')"
            );
        }
        let exchanged = match run(&mut part, &sql).await {
            Ok(()) => true,
            Err(error) if is_of_locks(&error) => false,
            Err(error) => return Err(error),
        };
        if exchanged {
            part.commit().await?
        } else {
            part.rollback().await?
        }
        Ok(exchanged)
    }

    /// Leaves everything as if there had been no rebuild.
    async fn drop_new(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut tx = connection.begin().await?;
        run(&mut tx, &format!("drop schema {} cascade", self.schema)).await?;
        sqlx::query("delete from parked where consumer = $1")
            .bind(&self.consumer)
            .execute(&mut *tx)
            .await?;
        sqlx::query("delete from rebuilding where name = $1")
            .bind(self.projection.name)
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    /// The new tables first, whatever was looked at before.
    async fn look_here(&self, tx: &mut PgConnection) -> Result<(), sqlx::Error> {
        run(tx, &format!("set local search_path = {}, public", self.schema)).await
    }

    async fn advance(
        &self,
        tx: &mut PgConnection,
        shard: i16,
        after: i64,
        to: i64,
    ) -> Result<(), ConsumerError> {
        self.look_here(tx).await?;
        if after < to {
            let window = Window::between(tx, shard, after, to).await?;
            act_apart(tx, self, window).await?;
        }
        Ok(())
    }

    async fn tables(&self, tx: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
        sqlx::query_scalar(
            "select relname::text from pg_class \
             where relkind = 'r' and relnamespace = to_regnamespace($1) order by 1",
        )
        .bind(&self.schema)
        .fetch_all(tx)
        .await
    }

    /// In how many rows a new and a live table differ, of patients that neither has parked.
    async fn count_differing(
        &self,
        tx: &mut PgConnection,
        table: &str,
    ) -> Result<i64, sqlx::Error> {
        let (new, live) = (format!("{}.{table}", self.schema), format!("public.{table}"));
        let (ours, theirs) = (&self.consumer, self.projection.consumer);
        let has_series: bool = sqlx::query_scalar(
            "select exists (select from pg_attribute where attrelid = to_regclass($1) \
                            and attname = 'series' and not attisdropped)",
        )
        .bind(&new)
        .fetch_one(&mut *tx)
        .await?;
        // Whose row it is, is known by its series or by itself.
        let (series, whose) = match has_series {
            true => ("left join public.series s on s.shard = x.shard and s.series = x.series", "s"),
            false => ("", "x"),
        };
        let rows = |table: &str| {
            format!(
                "select x::text as row from {table} x {series} \
                 where not exists (select from parked p \
                                   where p.consumer in ('{ours}', '{theirs}') and p.shard = x.shard \
                                     and p.tenant = {whose}.tenant and p.patient_id = {whose}.patient_id)"
            )
        };
        let (new, live) = (rows(&new), rows(&live));
        // As text: json has no equality, and a float's text is exact. Sums first, because
        // the live fold waits: almost always they are equal, and nothing is sorted.
        let sum = |rows: &str| {
            format!("(select (count(*), sum(hashtextextended(row, 0)::numeric)) from ({rows}) s)")
        };
        let equal = format!("select {} = {}", sum(&new), sum(&live));
        let equal: Option<bool> =
            sqlx::query_scalar(AssertSqlSafe(equal)).fetch_one(&mut *tx).await?;
        if equal == Some(true) {
            return Ok(0);
        }
        let sql = format!(
            "select (select count(*) from ({new} except all {live}) a) \
                  + (select count(*) from ({live} except all {new}) b)"
        );
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(tx).await
    }

    async fn take_over(&self, tx: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("delete from parked where consumer = $1")
            .bind(self.projection.consumer)
            .execute(&mut *tx)
            .await?;
        for forget in
            ["delete from drift where name = $1", "delete from rebuilding where name = $1"]
        {
            sqlx::query(forget).bind(self.projection.name).execute(&mut *tx).await?;
        }
        sqlx::query("update parked set consumer = $2 where consumer = $1")
            .bind(&self.consumer)
            .bind(self.projection.consumer)
            .execute(tx)
            .await?;
        Ok(())
    }
}

fn is_of_locks(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| NOT_LOCKED.contains(&&*code))
}
