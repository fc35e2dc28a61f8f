//! A tenant's rules and silences as a shard's rules have read them: the table `rule_memory`.
//!
//! Guarantees that one which cannot be read any more, because another version of the program
//! wrote it, is an error of the shard: it is never left out, and no patient is parked for
//! it. A rule that was written anew stands in the place of one that cannot be read, so that
//! this mends it. Does not ask the tenant's own stream for anything else: that is
//! [`super::versions`], which finds the same rule unreadable.

use serde::de::Error as _;
use sqlx::PgConnection;

use super::evaluate::{EvaluateError, RuleChanged, SILENCE_SET};
use super::model::Rule;
use super::registry::{RuleSnapshot, Silence};
use crate::consumer::ConsumerError;
use crate::event::{Event, NO_PATIENT, RULE_CHANGED, Recorded};

/// A row of `rule_memory`.
#[derive(sqlx::FromRow)]
struct Stored {
    tenant: String,
    kind: String,
    id: String,
    data: String,
    position: i64,
}

/// The rules as a shard's rules have read them, on top of those of a fresh tenant.
pub(super) async fn load(
    tx: &mut PgConnection,
    fresh: &RuleSnapshot,
    shard: i16,
) -> Result<RuleSnapshot, ConsumerError> {
    let rows: Vec<Stored> = sqlx::query_as(
        "select tenant, kind, id, data::text, position from rule_memory where shard = $1 \
         order by position",
    )
    .bind(shard)
    .fetch_all(&mut *tx)
    .await?;
    let mut snapshot = fresh.clone();
    for row in rows {
        let Err(error) = put(&mut snapshot, &row) else { continue };
        let anew = match row.kind.as_str() {
            "rule" => written_anew(tx, shard, (&row.tenant, &row.id), row.position).await?,
            _ => None,
        };
        let taken = match anew {
            Some(rule) => snapshot.put(&row.tenant, rule).map_err(EvaluateError::from),
            None => Err(error),
        };
        taken.map_err(|error| ConsumerError::Stored {
            what: format!(
                "the {} {} of {}, at position {} of shard {shard}",
                row.kind, row.id, row.tenant, row.position
            ),
            why: error.to_string(),
        })?;
    }
    Ok(snapshot)
}

fn put(snapshot: &mut RuleSnapshot, row: &Stored) -> Result<(), EvaluateError> {
    match row.kind.as_str() {
        "rule" => Ok(snapshot.put(&row.tenant, rule_of(&row.data)?)?),
        _ => {
            snapshot.silence(&row.tenant, serde_json::from_str::<Silence>(&row.data)?);
            Ok(())
        }
    }
}

fn rule_of(data: &str) -> Result<Rule, EvaluateError> {
    let changed: RuleChanged = serde_json::from_str(data)?;
    Ok(Rule::read(&changed.rule, changed.version)?)
}

/// The newest version of a rule that was written after a position, if it can be read.
async fn written_anew(
    tx: &mut PgConnection,
    shard: i16,
    (tenant, id): (&str, &str),
    after: i64,
) -> Result<Option<Rule>, sqlx::Error> {
    // Also where the tenant's own stream is parked, and "non_reading" is without it.
    let newest: Option<Option<String>> = sqlx::query_scalar(
        "select data::text from public.non_reading where shard = $1 and tenant = $2 \
         and patient_id = $3 and type = $4 and position > $5 \
         and data -> 'rule' ->> 'id' = $6 order by position desc limit 1",
    )
    .bind(shard)
    .bind(tenant)
    .bind(NO_PATIENT)
    .bind(RULE_CHANGED)
    .bind(after)
    .bind(id)
    .fetch_optional(tx)
    .await?;
    Ok(newest.flatten().and_then(|data| rule_of(&data).ok()))
}

/// Takes those changes of rules out of a window that cannot be read and were written anew
/// since. The version before judges until then, as it does while the stream is parked.
pub(super) async fn without_written_anew(
    tx: &mut PgConnection,
    shard: i16,
    events: &mut Vec<Recorded>,
) -> Result<(), sqlx::Error> {
    let mut passed_over = Vec::new();
    for recorded in events.iter() {
        let Some(id) = unreadable_rule(&recorded.event) else { continue };
        let rule = (&*recorded.event.tenant, &*id);
        if written_anew(tx, shard, rule, recorded.position).await?.is_some() {
            let (tenant, position) = (&*recorded.event.tenant, recorded.position);
            tracing::warn!(shard, position, tenant, id, "cannot be read, and was written anew");
            passed_over.push(position);
        }
    }
    events.retain(|recorded| !passed_over.contains(&recorded.position));
    Ok(())
}

/// The id of a rule whose change this version cannot read.
fn unreadable_rule(event: &Event) -> Option<String> {
    if event.kind != RULE_CHANGED {
        return None;
    }
    let changed: RuleChanged = serde_json::from_str(event.data.as_deref()?).ok()?;
    let read = Rule::read(&changed.rule, changed.version);
    read.is_err().then(|| changed.id().to_owned())
}

/// Keeps what a tenant's stream said in this window, for those who read it later.
pub(super) async fn keep(
    tx: &mut PgConnection,
    shard: i16,
    events: &[Recorded],
) -> Result<(), ConsumerError> {
    for recorded in events {
        let kind = match recorded.event.kind.as_str() {
            RULE_CHANGED => "rule",
            SILENCE_SET => "silence",
            _ => continue,
        };
        sqlx::query(include_str!("keep_rule.sql"))
            .bind(shard)
            .bind(&*recorded.event.tenant)
            .bind(kind)
            .bind(&recorded.event.data)
            .bind(recorded.position)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// What of an event could not be understood, with its place.
pub(super) fn misunderstood(shard: i16, position: i64, error: EvaluateError) -> ConsumerError {
    let source = match error {
        EvaluateError::Json(source) => source,
        other => serde_json::Error::custom(other),
    };
    ConsumerError::Event { shard, position, source }
}
