//! What the database says of incarnations: the table, and what a new one sets right.
//!
//! Guarantees nothing by itself: who begins one holds all heads (`super`).

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgPool};

use crate::log::head::Mark;

/// An incarnation, as the log tells of it.
#[derive(Clone, Debug, FromRow)]
pub struct Incarnation {
    /// Which: microseconds since 1970 when it began.
    pub number: i64,
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// The last position of each shard that it took over.
    pub heads: Vec<i64>,
    /// The last position of each shard that is known to have been acknowledged before.
    pub acknowledged: Vec<i64>,
    /// Why it began.
    pub reason: String,
}

impl Incarnation {
    /// How many positions were acknowledged and are gone, as far as anybody knew.
    pub fn lost(&self) -> i64 {
        self.acknowledged.iter().zip(&self.heads).map(|(acked, head)| (acked - head).max(0)).sum()
    }
}

/// What [`look`] finds.
#[derive(FromRow)]
pub(super) struct Looked {
    pub place: Option<String>,
    pub number: Option<i64>,
    pub known: Option<String>,
    pub gone: Vec<i16>,
}

/// An incarnation, as far as it is needed again and again.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub(super) struct Begun {
    pub number: i64,
    /// Its deliveries' numbers are greater.
    pub sequences_from: i64,
    /// The last position of each shard that it took over.
    pub heads: Vec<i64>,
}

/// Where this connection leads, and what of these appends is not there.
pub(super) async fn look(
    connection: &mut PgConnection,
    marks: &[(i16, Mark)],
) -> Result<Looked, sqlx::Error> {
    sqlx::query_as(include_str!("look.sql"))
        .bind(marks.iter().map(|(shard, _)| *shard).collect::<Vec<_>>())
        .bind(marks.iter().map(|(_, mark)| mark.position).collect::<Vec<_>>())
        .bind(marks.iter().map(|(_, mark)| mark.recorded_at).collect::<Vec<_>>())
        .fetch_one(connection)
        .await
}

/// All incarnations, the oldest first.
pub(super) async fn all(connection: &mut PgConnection) -> Result<Vec<Begun>, sqlx::Error> {
    sqlx::query_as("select number, sequences_from, heads from public.incarnation order by number")
        .fetch_all(connection)
        .await
}

/// What this process had acknowledged is more than the one who noticed knew of.
pub(super) async fn add_lost(
    tx: &mut PgConnection,
    lost: &[(i16, Mark)],
) -> Result<(), sqlx::Error> {
    for (shard, mark) in lost {
        sqlx::query(
            "update public.incarnation set acknowledged[$1] = greatest(acknowledged[$1], $2) \
             where number = (select max(number) from public.incarnation)",
        )
        .bind(i32::from(*shard) + 1)
        .bind(mark.position)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// What stood ahead of the log goes on from its head; in words, if there was anything.
pub(super) async fn set_back(tx: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let (consumers, states, rule_changes, deliveries): (Option<String>, i64, i64, i64) =
        sqlx::query_as("select * from public.set_back_to_heads()").fetch_one(&mut *tx).await?;
    let consumers = consumers.unwrap_or_default();
    if consumers.is_empty() && deliveries == 0 {
        return Ok(None);
    }
    let said = format!(
        "{consumers}; forgotten: {states} states of rules, {rule_changes} changes of rules, {deliveries} deliveries"
    );
    tracing::error!(said, "what stood ahead of the log was set back to it");
    Ok(Some(said))
}

/// The newest incarnation, if it is not the first.
pub(in crate::log) async fn newest_restored(
    pool: &PgPool,
) -> Result<Option<Incarnation>, sqlx::Error> {
    sqlx::query_as(
        "select number, began_at, heads, acknowledged, reason from incarnation \
         where number > (select min(number) from incarnation) order by number desc limit 1",
    )
    .fetch_optional(pool)
    .await
}
