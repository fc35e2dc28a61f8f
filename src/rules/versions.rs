//! A tenant's rules as they were written: every version, by whom and why.
//!
//! Guarantees that a change is an event in the tenant's stream of every shard, all in
//! one transaction, so that each shard's rules learn it at a position of its own and no
//! shard without the others. Two who change at once get versions one after the other, and
//! no reading waits for them but while the event itself is appended. What is stored and
//! cannot be read is an error and never left out: the rules at work stop at the same row.
//! Asks the log, which is never behind.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, Row};

use super::model::{Mode, Rule};
use super::registry::{RULES_PER_TENANT_MAX, RuleSet, shipped_bodies};
use super::table::{RuleError, fault};
use super::written::short_enough;
use crate::event::{Event, NO_PATIENT, RULE_CHANGED};
use crate::log::{AppendError, Log, in_turn};

/// One version of a rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// The rule's JSON form.
    pub rule: Value,
    /// Counts from 1.
    pub version: u32,
    /// Who; nobody for what every tenant begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
}

impl Version {
    /// The rule's id.
    pub fn id(&self) -> &str {
        self.rule.get("id").and_then(Value::as_str).unwrap_or_default()
    }

    /// The rule in types, of what was stored.
    pub fn stored(&self) -> Result<Rule, Unreadable> {
        Rule::read(&self.rule, self.version).map_err(|error| Unreadable {
            what: format!("version {} of the rule {}", self.version, self.id()),
            why: format!("{error}: write it anew with PUT /rules/{}", self.id()),
        })
    }
}

/// Why a rule was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It is no rule, or does not go with the others.
    #[error("{0}")]
    Rule(#[from] RuleError),
    /// PostgreSQL said no, or is gone.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    /// The log said no.
    #[error("{0}")]
    Append(#[from] AppendError),
    /// What is stored cannot be read.
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
}

/// Something of a tenant's own stream that this version of the program cannot read.
#[derive(Debug, thiserror::Error)]
#[error("{what}, as it is stored, cannot be read by this version: {why}")]
pub struct Unreadable {
    /// Which.
    pub what: String,
    /// Why, and what would mend it.
    pub why: String,
}

/// Every version of every rule of a tenant, oldest first; what was shipped comes first.
pub async fn versions(log: &Log, tenant: &str) -> Result<Vec<Version>, ChangeError> {
    let mut connection = log.pool().acquire().await?;
    read(&mut connection, log.shard_of(tenant, NO_PATIENT), tenant).await
}

/// The newest version of each rule, by id.
pub async fn newest(log: &Log, tenant: &str) -> Result<Vec<Version>, ChangeError> {
    Ok(newest_of(versions(log, tenant).await?))
}

/// The events that a tenant's rules raise, also those of rules that are not active now.
pub async fn events(log: &Log, tenant: &str) -> Result<Vec<String>, ChangeError> {
    let mut events = Vec::new();
    for version in newest(log, tenant).await? {
        let rule = version.stored()?;
        events.extend(rule.escalate.iter().map(|next| next.event.clone()));
        events.push(rule.event);
    }
    Ok(events)
}

fn newest_of(all: Vec<Version>) -> Vec<Version> {
    let mut newest: Vec<Version> = Vec::new();
    for version in all {
        newest.retain(|other| other.id() != version.id());
        newest.push(version);
    }
    newest.sort_by(|a, b| a.id().cmp(b.id()));
    newest
}

async fn read(
    connection: &mut PgConnection,
    home: i16,
    tenant: &str,
) -> Result<Vec<Version>, ChangeError> {
    let rows = sqlx::query(
        "select data::text, position from non_reading where shard = $1 and tenant = $2 \
         and patient_id = $3 and type = $4 order by position",
    )
    .bind(home)
    .bind(tenant)
    .bind(NO_PATIENT)
    .bind(RULE_CHANGED)
    .fetch_all(connection)
    .await?;
    let shipped = shipped_bodies()?.into_iter();
    let mut all: Vec<Version> = shipped
        .map(|rule| Version { rule, version: 1, by: None, reason: None, at: None })
        .collect();
    for row in rows {
        let (text, position): (Option<&str>, i64) = (row.try_get(0)?, row.try_get(1)?);
        let version = serde_json::from_str(text.unwrap_or_default());
        all.push(version.map_err(|error| Unreadable {
            what: format!("the change of a rule at position {position} of shard {home}"),
            why: error.to_string(),
        })?);
    }
    Ok(all)
}

/// Writes a rule: the same body as before is no new version.
pub async fn change(
    log: &Log,
    tenant: &str,
    body: Value,
    (by, reason): (&str, Option<&str>),
    now: DateTime<Utc>,
) -> Result<Version, ChangeError> {
    let id = Rule::read(&body, 0)?.id;
    short_enough(&body, "")?;
    log.ensure_partitions(std::iter::once(now)).await?;
    let mut tx = log.pool().begin().await?;
    // Who changes next waits here.
    in_turn(&mut tx, &format!("rules/{tenant}")).await?;
    let newest = newest_of(read(&mut tx, log.shard_of(tenant, NO_PATIENT), tenant).await?);
    let last = newest.iter().find(|version| version.id() == id);
    if let Some(last) = last.filter(|last| last.rule == body) {
        return Ok(last.clone());
    }
    if last.is_none() && newest.len() >= RULES_PER_TENANT_MAX {
        let what =
            format!("a tenant has {RULES_PER_TENANT_MAX} rules at most, retired ones included");
        return Err(fault("/id", what).into());
    }
    let version = Version {
        rule: body,
        version: last.map_or(1, |last| last.version + 1),
        by: Some(by.to_owned()),
        reason: reason.map(str::to_owned),
        at: Some(now),
    };
    let rule = Rule::read(&version.rule, version.version)?;
    // The one that is written anew need not be readable.
    let others = newest.iter().filter(|other| other.id() != rule.id);
    let others = others.map(Version::stored).collect::<Result<Vec<Rule>, Unreadable>>()?;
    RuleSet::new(others.into_iter().chain([rule]).map(Into::into))?;
    let data =
        serde_json::to_string(&version).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let events = [Event::non_reading(RULE_CHANGED, (tenant, NO_PATIENT), by, now, data)];
    log.append_everywhere(tx, &events).await?;
    Ok(version)
}

/// The rules of a tenant, whatever their mode.
pub async fn rules(log: &Log, tenant: &str) -> Result<Vec<Rule>, ChangeError> {
    let all = newest(log, tenant).await?;
    Ok(all.iter().map(Version::stored).collect::<Result<_, Unreadable>>()?)
}

/// Those that page now.
pub async fn active(log: &Log, tenant: &str) -> Result<Vec<Rule>, ChangeError> {
    let all = rules(log, tenant).await?;
    Ok(all.into_iter().filter(|rule| rule.mode == Mode::Active).collect())
}
