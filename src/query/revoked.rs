//! Which tokens are revoked, as the log says.
//!
//! Guarantees that what was committed up to the heads that are answered is in the answer, once
//! for each time that it is asked from there. Does not remember anything.

use chrono::{DateTime, Utc};

use crate::event::Revoked;
use crate::log::{Log, heads};

/// What is revoked: whose tenant's, which tokens, and when.
pub type Revocation = (String, Revoked, DateTime<Utc>);

/// A row of `revoked.sql`.
type Row = (String, DateTime<Utc>, Option<String>, Option<String>);

/// What was revoked after these positions of the shards, and where they are now.
pub async fn since(
    log: &Log,
    positions: &[i64],
) -> Result<(Vec<Revocation>, Vec<i64>), sqlx::Error> {
    let heads = heads(&mut *log.pool().acquire().await?).await?;
    let mut found = Vec::new();
    for ((shard, head), position) in log.shards().zip(&heads).zip(positions) {
        // Nothing has happened, of one kind or another.
        if head == position {
            continue;
        }
        let rows: Vec<Row> = sqlx::query_as(include_str!("revoked.sql"))
            .bind(shard)
            .bind(position)
            .bind(head)
            .fetch_all(log.pool())
            .await?;
        found.extend(rows.into_iter().filter_map(|(tenant, at, subject, token)| {
            let what = subject.map(Revoked::Subject).or(token.map(Revoked::Token))?;
            Some((tenant, what, at))
        }));
    }
    Ok((found, heads))
}
