//! A month's partition, exchanged: the full one for a thin one, and back.
//!
//! Guarantees that at every instant, whatever is killed, either the full month is
//! part of `reading` and `archived_month` does not know it, or the thin one is and it
//! does: partition and row change in one transaction. The table that was taken out is
//! dropped after that commit; what a killed run leaves is dropped by the next one. What is no
//! reading is in the file as well, and never leaves its table.
//!
//! Locks: tables are filled beside `reading`, which is not locked meanwhile. The exchange
//! locks `reading` and the partition exclusively, and `non_reading` against writing, for some
//! milliseconds. It waits for
//! that at most [`LOCK_MS_MAX`], because appends and questions queue behind it, then
//! lets them pass and tries again.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::archived::{ArchivedMonth, CONSTRAINT};
use super::partition::{Span, attach, bounds};
use super::series;
use crate::event::{Event, READING, Recorded};

/// The longest that the exchange waits for its locks, and others behind it.
pub const LOCK_MS_MAX: u64 = 100;
/// Between two tries: those who waited get through.
const LOCK_PAUSE_MS: u64 = 500;
/// Tries until it is given up: some minutes.
const LOCK_TRIES_MAX: u32 = 300;
/// The longest wait for another run to end.
const TURN_MS_MAX: u64 = 5_000;
/// PostgreSQL's code for a lock that was not obtained in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Why a month was not exchanged. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// PostgreSQL said no, or is gone.
    #[error("exchanging a month's table: {0}")]
    Database(#[from] sqlx::Error),
    /// Somebody reads the log all the time.
    #[error(
        "the log's table was in use whenever it was asked for: run this again when no long \
         question (vitals verify, rebuild, replay) is under way"
    )]
    Locked,
    /// Readings came while it was copied.
    #[error("readings of {0} were recorded while it was being archived")]
    Grown(Span),
    /// Another process was faster, or somebody meddled.
    #[error("{0} is not what it was when this began: run it again")]
    Changed(Span),
}

/// A shard and a position in it.
pub type ShardPosition = (i16, i64);

pub(super) fn thin(span: Span) -> String {
    format!("thin_{}", span.table())
}

pub(super) fn full(span: Span) -> String {
    format!("full_{}", span.table())
}

fn gone(span: Span) -> String {
    format!("gone_{}", span.table())
}

/// Where the contexts of a month wait that is brought back.
pub(super) fn contexts(span: Span) -> String {
    format!("context_{}", span.table())
}

/// Makes this session the only one that exchanges months, until it ends. `false` when
/// there is another, or one that counts on no exchange.
pub async fn only_one(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    turn(connection, "pg_advisory_lock").await
}

/// Lets no month be exchanged until this session ends. `false` when one is right now.
pub async fn none_meanwhile(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    turn(connection, "pg_advisory_lock_shared").await
}

async fn turn(connection: &mut PgConnection, lock: &str) -> Result<bool, sqlx::Error> {
    // Waited for, because a killed run's session takes a moment to end.
    let sql = format!(
        "set lock_timeout = {TURN_MS_MAX}; select {lock}(hashtext('vitals archive')); \
         set lock_timeout = default"
    );
    obtained(run(connection, &sql).await)
}

/// Whether a lock was obtained in time.
fn obtained(locked: Result<(), sqlx::Error>) -> Result<bool, sqlx::Error> {
    match locked {
        Ok(()) => Ok(true),
        Err(error) => match error.as_database_error().and_then(|error| error.code()) {
            Some(code) if code == LOCK_NOT_AVAILABLE => Ok(false),
            _ => Err(error),
        },
    }
}

/// Drops what a killed run has left: tables that are part of nothing.
pub async fn drop_leftovers(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let left: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_class c join pg_class r on r.oid = 'reading'::regclass \
         where c.relnamespace = r.relnamespace and c.relkind = 'r' and not c.relispartition \
           and c.relname ~ '^(thin|full|gone|context)_reading_[0-9]{4}(_[0-9]{2})?$'",
    )
    .fetch_all(&mut *connection)
    .await?;
    for table in left {
        if table.starts_with("gone_") {
            drop_gone(connection, &table).await?;
        } else {
            run(connection, &format!("drop table {table}")).await?;
        }
    }
    Ok(())
}

/// Drops what is no month any more, with the contexts of the readings that went with it.
async fn drop_gone(connection: &mut PgConnection, table: &str) -> Result<(), sqlx::Error> {
    let sql = format!(
        "delete from reading_context c using {table} g \
         where c.shard = g.shard and c.position = g.position \
           and not exists (select from reading r \
                           where r.shard = g.shard and r.occurred_at = g.occurred_at \
                             and r.series = g.series); \
         drop table {table}"
    );
    run(connection, &sql).await
}

/// The last position of each shard in a month, of the shards that have any.
pub async fn last_positions(
    connection: &mut PgConnection,
    span: Span,
    shards: &[i16],
) -> Result<Vec<ShardPosition>, sqlx::Error> {
    last_after(connection, span, &shards.iter().map(|shard| (*shard, 0)).collect::<Vec<_>>()).await
}

/// The same, of those after some positions.
async fn last_after(
    connection: &mut PgConnection,
    span: Span,
    after: &[ShardPosition],
) -> Result<Vec<ShardPosition>, sqlx::Error> {
    let sql = format!(
        "select s.shard, l.position from unnest($1::smallint[], $2::bigint[]) as s (shard, after) \
         cross join lateral ( \
             select greatest((select max(position) from {} r \
                              where r.shard = s.shard and r.position > s.after), \
                             (select max(position) from non_reading n \
                              where n.shard = s.shard and n.position > s.after \
                                and n.occurred_at >= $3 and n.occurred_at < $4)) as position) l \
         where l.position is not null order by s.shard",
        span.table()
    );
    let (shards, after): (Vec<i16>, Vec<i64>) = after.iter().copied().unzip();
    sqlx::query_as(AssertSqlSafe(sql))
        .bind(shards)
        .bind(after)
        .bind(span.since())
        .bind(span.until())
        .fetch_all(connection)
        .await
}

/// Makes the thin table of a month, with the readings that must stay of the positions up to
/// `last`. Returns how many that are.
pub async fn make_thin(
    connection: &mut PgConnection,
    span: Span,
    last: &[ShardPosition],
) -> Result<u64, sqlx::Error> {
    let table = thin(span);
    run(
        connection,
        &format!("drop table if exists {table}; create table {table} (like reading including all)"),
    )
    .await?;
    let (shards, positions): (Vec<i16>, Vec<i64>) = last.iter().copied().unzip();
    let sql = include_str!("keep.sql").replace("{table}", &span.table()).replace("{thin}", &table);
    let kept = sqlx::query(AssertSqlSafe(sql))
        .bind(shards)
        .bind(positions)
        .execute(&mut *connection)
        .await?
        .rows_affected();
    // Not validated: what is in it stays, nothing comes to it.
    let (since, until) = bounds(span);
    let sql = format!(
        "alter table {table} add constraint {CONSTRAINT} check (false) not valid; \
         alter table {table} add constraint within check \
             (occurred_at >= '{since}' and occurred_at < '{until}'); \
         analyze {table}"
    );
    run(connection, &sql).await?;
    Ok(kept)
}

/// Exchanges the full month for the thin table, if nothing of it came after the positions
/// `upto` of all shards.
pub async fn take_out(
    connection: &mut PgConnection,
    month: &ArchivedMonth,
    upto: &[ShardPosition],
) -> Result<(), ExchangeError> {
    let span = month.span;
    let mut tries = 0;
    loop {
        let mut tx = connection.begin().await?;
        if lock(&mut tx, span).await? {
            // No append runs now, and positions only grow.
            if !last_after(&mut tx, span, upto).await?.is_empty() {
                tx.rollback().await?;
                return Err(ExchangeError::Grown(span));
            }
            swap(&mut tx, span, &thin(span)).await?;
            record(&mut tx, month).await?;
            tx.commit().await?;
            break;
        }
        tx.rollback().await?;
        pause(&mut tries).await?;
    }
    Ok(drop_gone(connection, &gone(span)).await?)
}

/// Makes the empty table that a month is brought back into.
pub async fn make_full(connection: &mut PgConnection, span: Span) -> Result<(), sqlx::Error> {
    let (table, contexts, (since, until)) = (full(span), contexts(span), bounds(span));
    // Checked row by row as they come, so that attaching need not look at them again.
    let sql = format!(
        "drop table if exists {table}; create table {table} (like reading including all); \
         drop table if exists {contexts}; create table {contexts} (like reading_context including all); \
         alter table {table} add constraint within check \
             (occurred_at >= '{since}' and occurred_at < '{until}')"
    );
    run(connection, &sql).await
}

/// Puts readings of one shard into the table that a month is brought back into. What is no
/// reading never left.
pub async fn fill(
    connection: &mut PgConnection,
    span: Span,
    shard: i16,
    rows: &[Recorded],
) -> Result<(), sqlx::Error> {
    fn column<'a, T: 'a>(rows: &[&'a Recorded], of: impl Fn(&'a Recorded) -> T) -> Vec<T> {
        rows.iter().map(|row| of(row)).collect()
    }
    let rows: Vec<&Recorded> = rows.iter().filter(|row| row.event.kind == READING).collect();
    let events: Vec<&Event> = rows.iter().map(|row| &row.event).collect();
    // The chain has been walked: each has its series here.
    let series = series::find(connection, shard, &events).await?;
    let sql = include_str!("fill.sql")
        .replace("{full}", &full(span))
        .replace("{contexts}", &contexts(span));
    sqlx::query(AssertSqlSafe(sql))
        .bind(shard)
        .bind(column(&rows, |row| row.position))
        .bind(column(&rows, |row| row.recorded_at))
        .bind(series)
        .bind(column(&rows, |row| row.event.value))
        .bind(column(&rows, |row| row.event.quality))
        .bind(column(&rows, |row| row.event.suspect))
        .bind(column(&rows, |row| row.event.occurred_at))
        .bind(column(&rows, |row| row.event.data.as_deref()))
        .execute(connection)
        .await?;
    Ok(())
}

/// Exchanges the thin month for the full table, and forgets that it was archived.
pub async fn put_back(connection: &mut PgConnection, span: Span) -> Result<(), ExchangeError> {
    run(connection, &format!("analyze {}", full(span))).await?;
    let mut tries = 0;
    loop {
        let mut tx = connection.begin().await?;
        if lock(&mut tx, span).await? {
            let forgotten = sqlx::query("delete from archived_month where partition = $1")
                .bind(span.table())
                .execute(&mut *tx)
                .await?;
            if forgotten.rows_affected() != 1 {
                tx.rollback().await?;
                return Err(ExchangeError::Changed(span));
            }
            swap(&mut tx, span, &full(span)).await?;
            let contexts = contexts(span);
            let sql = format!(
                "insert into reading_context select * from {contexts} on conflict do nothing; \
                 drop table {contexts}"
            );
            run(&mut tx, &sql).await?;
            tx.commit().await?;
            break;
        }
        tx.rollback().await?;
        pause(&mut tries).await?;
    }
    Ok(drop_gone(connection, &gone(span)).await?)
}

/// Waits a bounded time for the locks; `false` when others had them.
async fn lock(tx: &mut PgConnection, span: Span) -> Result<bool, ExchangeError> {
    // What the log says has left the table must be on the disk before it is dropped.
    let sql = format!(
        "set local lock_timeout = {LOCK_MS_MAX}; set local synchronous_commit = on; \
         lock table only reading in access exclusive mode; \
         lock table {} in access exclusive mode; \
         lock table non_reading in share mode",
        span.table()
    );
    Ok(obtained(run(tx, &sql).await)?)
}

async fn pause(tries: &mut u32) -> Result<(), ExchangeError> {
    *tries += 1;
    if *tries >= LOCK_TRIES_MAX {
        return Err(ExchangeError::Locked);
    }
    tokio::time::sleep(Duration::from_millis(LOCK_PAUSE_MS)).await;
    Ok(())
}

/// Makes `table` the partition of a span; what was, is called `gone_…` afterwards.
async fn swap(tx: &mut PgConnection, span: Span, table: &str) -> Result<(), sqlx::Error> {
    let partition = span.table();
    let sql = format!(
        "alter table reading detach partition {partition}; \
         alter table {partition} rename to gone_{partition}; \
         alter table {table} rename to {partition}; {}; \
         alter table {partition} drop constraint within; \
         select share_table('{partition}')",
        attach(&partition, span)
    );
    run(tx, &sql).await
}

async fn record(tx: &mut PgConnection, month: &ArchivedMonth) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into archived_month (partition, since, until, location, rows, kept, bytes, \
                                     file_hash, rows_hash, positions_to) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(month.span.table())
    .bind(month.span.since())
    .bind(month.span.until())
    .bind(&month.location)
    .bind(month.rows)
    .bind(month.kept)
    .bind(month.bytes)
    .bind(&month.file_hash)
    .bind(&month.rows_hash)
    .bind(&month.positions_to)
    .execute(tx)
    .await?;
    Ok(())
}

/// The chain's hashes around positions (from, to) of a shard: before the commit that
/// holds the first, and after the one that holds the last.
pub async fn chain_around(
    connection: &mut PgConnection,
    shard: i16,
    first: i64,
    last: i64,
) -> Result<Option<(Vec<u8>, Vec<u8>)>, sqlx::Error> {
    sqlx::query_as(
        "select coalesce((select p.hash from log_commit p \
                          where p.shard = $1 and p.position_to < f.position_to \
                          order by p.position_to desc limit 1), decode(repeat('00', 32), 'hex')), \
                l.hash \
         from (select position_to from log_commit where shard = $1 and position_to >= $2 \
               order by position_to limit 1) f, \
              (select hash from log_commit where shard = $1 and position_to >= $3 \
               order by position_to limit 1) l",
    )
    .bind(shard)
    .bind(first)
    .bind(last)
    .fetch_optional(connection)
    .await
}

/// The shards and positions, from and to, of the commits that reach into a month.
pub async fn reach(
    connection: &mut PgConnection,
    span: Span,
) -> Result<Vec<(i16, i64, i64)>, sqlx::Error> {
    sqlx::query_as(
        "select shard, min(position_from), max(position_to) from log_commit \
         where occurred_min < $2 and occurred_max >= $1 group by shard order by shard",
    )
    .bind(span.since())
    .bind(span.until())
    .fetch_all(connection)
    .await
}

async fn run(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    // Names are made of numbers, and texts are ours; nothing from outside gets here.
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(|_| ())
}
