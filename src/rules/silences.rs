//! Silences: pages held back for a while, by somebody, for a reason.
//!
//! Guarantees that a silence is an event in every shard, like a rule, that it ends, that one
//! which could hold nothing back is refused, and that what one held back is on the record
//! and can be listed. High priority is never held back: the rules see to that, whatever a
//! silence says. What is stored and cannot be read is an error and never left out.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::Row;
use uuid::Uuid;

use super::evaluate::SILENCE_SET;
use super::facts::Facts;
use super::model::{Mode, Rule};
use super::registry::Silence;
use super::versions::{self, ChangeError, Unreadable};
use crate::event::{Event, NO_PATIENT, PATIENT_REGISTERED, Priority};
use crate::log::{AppendError, Log};

/// Alerts of a receipt, at most.
const HELD_BACK_MAX: i64 = 1_000;

/// Why there is no answer about silences, or no new one.
#[derive(Debug, thiserror::Error)]
pub enum SilenceError {
    /// PostgreSQL said no, or is gone.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    /// The log said no.
    #[error("{0}")]
    Append(#[from] AppendError),
    /// What is stored cannot be read.
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    /// The tenant's rules could not be looked at.
    #[error("{0}")]
    Rules(#[from] ChangeError),
    /// It would hold nothing back.
    #[error("{0}")]
    NoEffect(#[from] NoEffect),
}

/// Why a silence would hold nothing back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NoEffect {
    /// The place of what does not fit, as a JSON pointer.
    pub pointer: &'static str,
    /// Why, and what would.
    pub why: String,
}

/// Every silence of a tenant as it stands, newest first.
pub async fn all(log: &Log, tenant: &str) -> Result<Vec<Silence>, SilenceError> {
    let home = log.shard_of(tenant, NO_PATIENT);
    let rows = sqlx::query(
        "select data::text, position from non_reading where shard = $1 and tenant = $2 \
         and patient_id = $3 and type = $4 order by position",
    )
    .bind(home)
    .bind(tenant)
    .bind(NO_PATIENT)
    .bind(SILENCE_SET)
    .fetch_all(log.pool())
    .await?;
    let mut all: Vec<Silence> = Vec::new();
    for row in rows {
        let (text, position): (Option<&str>, i64) = (row.try_get(0)?, row.try_get(1)?);
        let silence: Silence =
            serde_json::from_str(text.unwrap_or_default()).map_err(|error| Unreadable {
                what: format!("the silence at position {position} of shard {home}"),
                why: error.to_string(),
            })?;
        all.retain(|other| other.id != silence.id);
        all.insert(0, silence);
    }
    all.sort_by_key(|silence| std::cmp::Reverse(silence.from));
    Ok(all)
}

/// Begins a silence, unless it would hold nothing back.
pub async fn begin(
    log: &Log,
    tenant: &str,
    silence: &Silence,
    by: &str,
    now: DateTime<Utc>,
) -> Result<(), SilenceError> {
    let rules = versions::rules(log, tenant).await?;
    let patient = match &silence.patient_id {
        Some(patient_id) => Some(facts_of(log, tenant, patient_id).await?),
        None => None,
    };
    holds_something_back(silence, &rules, patient.as_ref(), now)?;
    Ok(set(log, tenant, silence, by, now).await?)
}

/// Begins a silence, or sets another end, in every shard.
pub async fn set(
    log: &Log,
    tenant: &str,
    silence: &Silence,
    by: &str,
    now: DateTime<Utc>,
) -> Result<(), AppendError> {
    let data = serde_json::to_string(silence).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let events = [Event::non_reading(SILENCE_SET, (tenant, NO_PATIENT), by, now, data)];
    log.ensure_partitions(std::iter::once(now)).await?;
    log.append_everywhere(log.pool().begin().await?, &events).await
}

/// What the log says of a patient now; an error for one whom it has never heard of.
async fn facts_of(log: &Log, tenant: &str, patient_id: &str) -> Result<Facts, SilenceError> {
    let (is_known, record): (bool, Option<String>) = sqlx::query_as(include_str!("known.sql"))
        .bind(log.shard_of(tenant, patient_id))
        .bind(tenant)
        .bind(patient_id)
        .bind(PATIENT_REGISTERED)
        .fetch_one(log.pool())
        .await?;
    if !is_known {
        let why = format!("nothing was ever heard of a patient {patient_id}: look at the id again");
        return Err(NoEffect { pointer: "/patientId", why }.into());
    }
    Ok(record.map(|record| Facts::of_record(&record)).unwrap_or_default())
}

/// Whether a silence can hold back a page of any of these rules, all of a tenant's. Of a
/// patient whom it names it has to be known what is recorded.
pub fn holds_something_back(
    silence: &Silence,
    rules: &[Rule],
    patient: Option<&Facts>,
    now: DateTime<Utc>,
) -> Result<(), NoEffect> {
    let no = |pointer, why: String| Err(NoEffect { pointer, why });
    let mut muted: Vec<&Rule> = match &silence.rule {
        None => rules.iter().collect(),
        Some(id) => {
            let Some(rule) = rules.iter().find(|rule| rule.id == *id) else {
                return no("/rule", format!("there is no rule {id}: GET /rules lists them"));
            };
            if rule.priority == Priority::High {
                let why = "is of high priority, which no silence holds back: acknowledge its alert, \
                           or change the rule";
                return no("/rule", format!("{id} {why}"));
            }
            vec![rule]
        }
    };
    // An alert of a retired rule may stand still.
    muted.retain(|rule| matches!(rule.mode, Mode::Active | Mode::Retired));
    muted.retain(|rule| rule.priority != Priority::High);
    match (&silence.rule, muted.iter().any(|rule| rule.mode == Mode::Active)) {
        (Some(id), _) if muted.is_empty() => {
            return no("/rule", format!("{id} is not active: it pages nobody"));
        }
        (None, false) => {
            let why = "every active rule is of high priority, which no silence holds back";
            return no("", why.to_owned());
        }
        _ => {}
    }
    if let (Some(ward), Some(facts)) = (&silence.ward, patient)
        && facts.ward.as_ref() != Some(ward)
    {
        return no(
            "/ward",
            format!("the patient does not lie in {ward}: leave one of the two out"),
        );
    }
    if let Some(facts) = patient {
        muted.retain(|rule| facts.fit(&rule.scope, now));
        if muted.is_empty() {
            return no(
                "/patientId",
                "no rule that could be held back is for this patient".to_owned(),
            );
        }
    }
    if let Some(ward) = &silence.ward {
        let is_for = |rule: &&Rule| rule.scope.wards.is_empty() || rule.scope.wards.contains(ward);
        if !muted.iter().any(is_for) {
            return no("/ward", format!("no rule that could be held back is for {ward}"));
        }
    }
    Ok(())
}

/// What a silence held back, oldest first: the data of the alert events.
pub async fn held_back(
    log: &Log,
    tenant: &str,
    silence: Uuid,
) -> Result<Vec<(String, Value)>, SilenceError> {
    let rows: Vec<(String, String)> = sqlx::query_as(include_str!("held_back.sql"))
        .bind(log.shards().collect::<Vec<i16>>())
        .bind(tenant)
        .bind(silence.to_string())
        .bind(HELD_BACK_MAX)
        .fetch_all(log.pool())
        .await?;
    let read = |(patient, data): (String, String)| match serde_json::from_str(&data) {
        Ok(data) => Ok((patient, data)),
        Err(error) => {
            Err(Unreadable { what: format!("an alert of {patient}"), why: error.to_string() })
        }
    };
    Ok(rows.into_iter().map(read).collect::<Result<_, Unreadable>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule_of(id: &str, priority: &str, mode: &str, more: &str) -> Rule {
        let text = format!(
            "id = \"{id}\"\nevent = \"E\"\npriority = \"{priority}\"\nmode = \"{mode}\"\n\
             when = {{ vital = \"heart_rate\", op = \">\", value = 120 }}\n{more}"
        );
        Rule::parse(&text, 1).unwrap()
    }

    fn asked(rule: Option<&str>, ward: Option<&str>, patient: Option<&Facts>) -> &'static str {
        let rules = [
            rule_of("high", "high", "active", ""),
            rule_of("medium", "medium", "active", ""),
            rule_of("of-4b", "low", "active", "scope = { ward = [\"4B\"] }"),
            rule_of("draft", "low", "draft", ""),
            rule_of("trial", "low", "shadow", ""),
            rule_of("retired", "low", "retired", ""),
        ];
        let at = DateTime::UNIX_EPOCH;
        let silence = Silence {
            id: Uuid::nil(),
            rule: rule.map(str::to_owned),
            patient_id: patient.map(|_| "101".to_owned()),
            ward: ward.map(str::to_owned),
            by: "somebody".to_owned(),
            reason: "r".to_owned(),
            from: at,
            until: at + chrono::TimeDelta::hours(1),
        };
        match holds_something_back(&silence, &rules, patient, at) {
            Ok(()) => "yes",
            Err(no) => no.pointer,
        }
    }

    #[test]
    fn a_silence_that_could_hold_nothing_back_says_what_of_it_does_not_fit() {
        let lies = |ward: &str| Facts { ward: Some(ward.to_owned()), ..Facts::default() };
        let (of_4b, of_5a, of_none) = (lies("4B"), lies("5A"), Facts::default());
        for (rule, ward, patient, says) in [
            (Some("medium"), None, None, "yes"),
            (Some("retired"), None, None, "yes"),
            (Some("high"), None, None, "/rule"),
            (Some("nobodys"), None, None, "/rule"),
            (Some("draft"), None, None, "/rule"),
            (Some("trial"), None, None, "/rule"),
            (None, Some("4B"), None, "yes"),
            (Some("of-4b"), Some("4B"), None, "yes"),
            (Some("of-4b"), Some("5A"), None, "/ward"),
            (None, None, Some(&of_none), "yes"),
            (None, Some("4B"), Some(&of_4b), "yes"),
            (None, Some("4B"), Some(&of_5a), "/ward"),
            (None, Some("4B"), Some(&of_none), "/ward"),
            (Some("of-4b"), None, Some(&of_4b), "yes"),
            (Some("of-4b"), None, Some(&of_5a), "/patientId"),
        ] {
            assert_eq!(asked(rule, ward, patient), says, "{rule:?} {ward:?} {patient:?}");
        }
    }

    #[test]
    fn where_all_that_pages_is_of_high_priority_a_silence_holds_nothing_back() {
        let rules = [rule_of("high", "high", "active", ""), rule_of("old", "low", "retired", "")];
        let at = DateTime::UNIX_EPOCH;
        let silence = Silence {
            id: Uuid::nil(),
            rule: None,
            patient_id: None,
            ward: Some("4B".to_owned()),
            by: "somebody".to_owned(),
            reason: "r".to_owned(),
            from: at,
            until: at,
        };
        let refused = holds_something_back(&silence, &rules, None, at).unwrap_err();
        assert_eq!(refused.pointer, "");
    }
}
