//! A month's events as an archive wants them: from its own tables, shard by shard, in order.
//!
//! Guarantees commit order and constant memory: rows are read as they come. Does not say
//! what is in an archive, nor whether the month is still whole.

use futures_util::{Stream, TryStreamExt};
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::exchange::{ShardPosition, contexts, full, thin};
use super::partition::Span;
use super::read::{self, Tenants};
use crate::event::Recorded;

/// One of a month's tables.
#[derive(Clone, Copy, Debug)]
pub enum MonthTable {
    /// The partition.
    Partition,
    /// What was put beside it to be brought back.
    Full,
}

/// A shard's rows of a month, up to a position, in order, one after the other.
pub fn rows(
    connection: &mut PgConnection,
    span: Span,
    table: MonthTable,
    (shard, to): ShardPosition,
) -> impl Stream<Item = Result<Recorded, sqlx::Error>> + '_ {
    let (table, contexts) = match table {
        MonthTable::Partition => (span.table(), "reading_context".to_owned()),
        MonthTable::Full => (full(span), contexts(span)),
    };
    let sql =
        include_str!("read_month.sql").replace("{table}", &table).replace("{contexts}", &contexts);
    let mut tenants = Tenants::default();
    sqlx::query(AssertSqlSafe(sql))
        .bind(shard)
        .bind(to)
        .bind(span.since())
        .bind(span.until())
        .fetch(connection)
        .and_then(move |row| std::future::ready(read::recorded(&row, shard, &mut tenants)))
}

/// The positions of a shard's events of a month that stay, in order.
pub fn kept_positions(
    connection: &mut PgConnection,
    span: Span,
    shard: i16,
) -> impl Stream<Item = Result<i64, sqlx::Error>> + '_ {
    let sql = format!(
        "select position from {} where shard = $1 \
         union all \
         select position from non_reading where shard = $1 and occurred_at >= $2 and occurred_at < $3 \
         order by position",
        thin(span)
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(shard)
        .bind(span.since())
        .bind(span.until())
        .fetch(connection)
        .and_then(|row| std::future::ready(row.try_get("position")))
}
