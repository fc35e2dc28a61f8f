//! A rule as it is written down.
//!
//! Guarantees that a [`Rule`] can be evaluated as it is: its parts fit each other.
//! Keys that this version does not evaluate are refused, never ignored: a rule that
//! silently loses its delay would page too often.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::event::{Priority, is_fhir_id};
use crate::vital::Vital;

/// What a fresh tenant has active.
const HIGH_HEART_RATE: &str = include_str!("../../fixtures/rules/high-heart-rate.toml");

/// How old a reading may be when it is recorded and still page, unless the rule
/// says otherwise.
const LATENESS_DEFAULT: Duration = Duration::from_secs(120);

/// A rule and its version.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Chosen by its author.
    pub id: String,
    /// Counts from 1 with every change.
    pub version: u32,
    /// The name of the event that it raises: `HIGH_HEART_RATE`.
    pub event: String,
    /// Of the alert.
    pub priority: Priority,
    /// The vital that it judges.
    pub vital: Vital,
    /// How.
    pub op: Op,
    /// Against which number, in the vital's canonical unit.
    pub value: f64,
    /// A raised alert is cleared by the first reading that does not break this
    /// number; equal to `value` unless the rule has hysteresis.
    pub clear: f64,
    /// Readings recorded later than this after they were measured page nobody.
    pub lateness: Duration,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Op {
    /// Strictly above.
    #[serde(rename = ">")]
    Above,
    /// At or above.
    #[serde(rename = ">=")]
    AtLeast,
    /// Strictly below.
    #[serde(rename = "<")]
    Below,
    /// At or below.
    #[serde(rename = "<=")]
    AtMost,
}

impl Op {
    /// Whether `value` breaks `limit`.
    pub fn breaks(self, value: f64, limit: f64) -> bool {
        match self {
            Op::Above => value > limit,
            Op::AtLeast => value >= limit,
            Op::Below => value < limit,
            Op::AtMost => value <= limit,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::Above => ">",
            Op::AtLeast => ">=",
            Op::Below => "<",
            Op::AtMost => "<=",
        })
    }
}

/// Why a text is no rule.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// No TOML, or keys that do not belong.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// Parts that do not fit each other.
    #[error("rule {id}: {what}")]
    Unfit {
        /// The rule's id, as written.
        id: String,
        /// What does not fit, and the mend.
        what: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    event: String,
    priority: Priority,
    mode: Mode,
    when: When,
    clear: Option<Clear>,
    #[serde(default, deserialize_with = "duration")]
    lateness: Option<Duration>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Active,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    vital: Vital,
    op: Op,
    value: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clear {
    value: f64,
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map(Some).map_err(serde::de::Error::custom)
}

impl Rule {
    /// Reads a rule's TOML. `version` is the registry's, not the author's.
    pub fn parse(text: &str, version: u32) -> Result<Rule, RuleError> {
        let written: Written = toml::from_str(text)?;
        // The only mode there is yet; another is refused while reading.
        let Mode::Active = written.mode;
        let id = written.id;
        let unfit = |what: &str| RuleError::Unfit { id: id.clone(), what: what.to_owned() };
        if !is_fhir_id(&id) {
            return Err(unfit("the id must match [A-Za-z0-9\\-.]{1,64}"));
        }
        let upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        if !written.event.starts_with(|c: char| c.is_ascii_uppercase())
            || !written.event.chars().all(upper)
        {
            return Err(unfit("the event must be in upper case, as HIGH_HEART_RATE"));
        }
        let When { vital, op, value } = written.when;
        let clear = written.clear.map_or(value, |c| c.value);
        // A clearing number on the breaking side would clear while the rule holds.
        let wrong_side = match op {
            Op::Above | Op::AtLeast => clear > value,
            Op::Below | Op::AtMost => clear < value,
        };
        if !value.is_finite() || !clear.is_finite() || wrong_side {
            return Err(unfit("clear.value must lie on the safe side of when.value"));
        }
        Ok(Rule {
            version,
            event: written.event,
            priority: written.priority,
            vital,
            op,
            value,
            clear,
            lateness: written.lateness.unwrap_or(LATENESS_DEFAULT),
            id,
        })
    }
}

/// The rules of a fresh tenant.
pub fn default_rules() -> Result<Vec<Rule>, RuleError> {
    Ok(vec![Rule::parse(HIGH_HEART_RATE, 1)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_rule_is_the_contracts() {
        let rules = default_rules().unwrap();
        let [rule] = &*rules else { panic!("one rule, not {}", rules.len()) };
        assert_eq!((rule.id.as_str(), rule.event.as_str()), ("high-heart-rate", "HIGH_HEART_RATE"));
        assert_eq!(
            (rule.vital, rule.op, rule.value, rule.clear),
            (Vital::HeartRate, Op::Above, 120.0, 120.0)
        );
        assert_eq!(rule.lateness, Duration::from_secs(120));
    }

    #[track_caller]
    fn check_refused(change: (&str, &str), expect: &str) {
        let text = HIGH_HEART_RATE.replace(change.0, change.1);
        assert_ne!(text, HIGH_HEART_RATE);
        let message = Rule::parse(&text, 1).unwrap_err().to_string();
        assert!(message.contains(expect), "{message}");
    }

    #[test]
    fn what_is_not_evaluated_is_refused_and_not_ignored() {
        check_refused(("lateness = \"2m\"", "on_delay = \"60s\""), "on_delay");
        check_refused(("lateness = \"2m\"", "clear = { value = 130 }"), "safe side");
        check_refused(("high-heart-rate", "high heart rate"), "id must match");
        check_refused(("HIGH_HEART_RATE", "high"), "upper case");
        check_refused(("\">\"", "\"~\""), "variant");
    }
}
