//! A vital of a patient in buckets of time.
//!
//! Guarantees the same buckets whether they come from what is folded already or from the
//! log, and that nothing archived is silently missing in them.

use chrono::{DateTime, Utc};

use super::history::HistoryQuery;
use super::reach::Unanswered;
use super::rollup;
pub use super::rollup::Bucket;
use crate::log::Log;
use crate::vital::Vital;

/// Buckets of the one vital of a question that have readings, from a time on: of whole
/// minutes and hours from what is folded already, else from the log.
pub async fn buckets(
    log: &Log,
    question: &HistoryQuery,
    vital: Vital,
    from: DateTime<Utc>,
    every_seconds: f64,
    limit: i64,
) -> Result<Vec<Bucket>, Unanswered> {
    let reach = question.reach(from);
    reach.check(log).await?;
    if let Some(rows) = rollup::buckets(log, question, vital, from, every_seconds, limit).await? {
        reach.check(log).await?;
        return Ok(rows);
    }
    let rows = sqlx::query_as(include_str!("history_buckets.sql"))
        .bind(log.shard_of(&question.tenant, &question.patient_id))
        .bind(&question.tenant)
        .bind(&question.patient_id)
        .bind(vital.name())
        .bind(from)
        .bind(question.range.to)
        .bind(every_seconds)
        .bind(&question.device)
        .bind(limit)
        .fetch_all(log.pool())
        .await?;
    reach.check(log).await?;
    Ok(rows)
}
