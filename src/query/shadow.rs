//! Rules on trial: what they would have raised, and how often they would have paged.
//!
//! Guarantees that what is asked here was never sent to anybody, and that an alert of a rule
//! that is on trial no longer is shown as over. Bounded by pages of a list.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::FromRow;

use super::alerts::{Alert, AlertFilter, AlertState};
use super::{AnswerPart, fresh};
use crate::log::Log;

/// A page of alerts of rules on trial, newest first, and whether it is fresh. `trying` are
/// the rules that are on trial now.
pub async fn alerts(
    log: &Log,
    tenant: &str,
    filter: &AlertFilter,
    trying: &[String],
) -> Result<(Vec<Alert>, bool), sqlx::Error> {
    let shards: Vec<i16> = match &filter.patient_id {
        Some(patient_id) => vec![log.shard_of(tenant, patient_id)],
        None => log.shards().collect(),
    };
    let fresh = fresh(log, &shards, &[AnswerPart::Shadow]).await?;
    let (after_since, after_id) = filter.after.unzip();
    let alerts = sqlx::query_as(include_str!("shadow_alerts.sql"))
        .bind(shards)
        .bind(tenant)
        .bind(&filter.patient_id)
        .bind(filter.state.map(AlertState::name))
        .bind(after_since)
        .bind(after_id)
        .bind(filter.limit)
        .bind(trying)
        .bind(&filter.patients)
        .fetch_all(log.pool())
        .await?;
    Ok((alerts, fresh))
}

/// Which pages are counted.
#[derive(Clone, Debug)]
pub struct ShadowQuery<'a> {
    /// The rule on trial.
    pub rule: &'a str,
    /// Its version; with none nothing was ever on trial.
    pub version: Option<i32>,
    /// The rules whose real pages stand beside it.
    pub others: &'a [String],
    /// From this day on, UTC.
    pub from: NaiveDate,
    /// Until this day, not included.
    pub to: NaiveDate,
}

/// Pages of one day and patient.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Day {
    /// UTC.
    pub day: NaiveDate,
    /// Whose.
    pub patient_id: String,
    /// That would have been sent.
    pub shadow: i64,
    /// That were sent.
    pub active: i64,
}

/// All pages that would have been sent, and all that were, and whether that is fresh.
pub async fn total(
    log: &Log,
    tenant: &str,
    wanted: &ShadowQuery<'_>,
) -> Result<((i64, i64), bool), sqlx::Error> {
    let shards: Vec<i16> = log.shards().collect();
    let fresh = fresh(log, &shards, &[AnswerPart::Shadow]).await?;
    let total = sqlx::query_as(
        "select coalesce(sum(pages) filter (where shadow), 0)::bigint, \
                coalesce(sum(pages) filter (where not shadow), 0)::bigint \
         from page_day where shard = any ($1) and tenant = $2 and day >= $3 and day < $4 \
           and (shadow and rule = $5 and rule_version = $6 or not shadow and rule = any ($7))",
    )
    .bind(shards)
    .bind(tenant)
    .bind(wanted.from)
    .bind(wanted.to)
    .bind(wanted.rule)
    .bind(wanted.version)
    .bind(wanted.others)
    .fetch_one(log.pool())
    .await?;
    Ok((total, fresh))
}

/// A page of the days and patients on which there were any, oldest first.
pub async fn days(
    log: &Log,
    tenant: &str,
    wanted: &ShadowQuery<'_>,
    after: Option<(NaiveDate, String)>,
    limit: i64,
) -> Result<Vec<Day>, sqlx::Error> {
    let (after_day, after_patient) = after.unzip();
    sqlx::query_as(include_str!("shadow_days.sql"))
        .bind(log.shards().collect::<Vec<i16>>())
        .bind(tenant)
        .bind(wanted.from)
        .bind(wanted.to)
        .bind(wanted.rule)
        .bind(wanted.version)
        .bind(wanted.others)
        .bind(after_day)
        .bind(after_patient)
        .bind(limit)
        .fetch_all(log.pool())
        .await
}

/// The first and the last moment of a time, as days: from the one that it begins in, until
/// the one after that it ends in.
pub fn days_of(from: DateTime<Utc>, to: DateTime<Utc>) -> (NaiveDate, NaiveDate) {
    let last = (to - chrono::TimeDelta::microseconds(1)).date_naive();
    (from.date_naive(), last.succ_opt().unwrap_or(last))
}
