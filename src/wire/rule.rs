//! Rules: as they are written, their versions, and what one on trial would have paged.
//!
//! [`Rule`] and [`Backtest`] describe what is taken: rules are read by a reader of their
//! own, which names the place of each fault, also in TOML.
#![allow(missing_docs, reason = "the names are those of the contract")]

use std::borrow::Cow;

use chrono::NaiveDate;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Id, Links, Page, Time};
use crate::event::Priority;
use crate::vital::Vital;

/// A rule, as it was written, and by whom and why.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RuleVersion {
    #[schemars(with = "Id")]
    pub id: String,
    #[schemars(range(min = 1))]
    pub version: u32,
    pub mode: Mode,
    pub rule: WrittenRule,
    /// What every tenant begins with has no author.
    pub by: Option<String>,
    pub reason: Option<String>,
    pub at: Option<Time>,
    #[serde(rename = "_links")]
    pub links: Links,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Mode {
    Draft,
    Shadow,
    Active,
    Retired,
}

/// A `Rule`, to the letter as it was written.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct WrittenRule(pub Value);

impl JsonSchema for WrittenRule {
    fn schema_name() -> Cow<'static, str> {
        "WrittenRule".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "additionalProperties": true,
            "description": "A `Rule`, to the letter as it was written.",
        })
    }
}

/// The pages that a version on trial would have sent, beside those that were.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShadowReport {
    #[serde(flatten)]
    pub page: Page<ShadowDay>,
    #[schemars(with = "Id")]
    pub rule: String,
    pub event: String,
    pub from_day: NaiveDate,
    /// Not included.
    pub to_day: NaiveDate,
    pub shadow: Pages,
    pub active: PagesOf,
}

/// Of one day and patient.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ShadowDay {
    pub day: NaiveDate,
    pub patient_id: Id<'static>,
    #[schemars(range(min = 0))]
    pub shadow: i64,
    #[schemars(range(min = 0))]
    pub active: i64,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct Pages {
    /// The newest that was on trial.
    pub version: Option<u32>,
    #[schemars(range(min = 0))]
    pub pages: i64,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct PagesOf {
    /// The rule itself, while it was active, and the active ones that raise the same event.
    #[schemars(with = "Vec<Id>")]
    pub rules: Vec<String>,
    #[schemars(range(min = 0))]
    pub pages: i64,
}

/// A trial of a rule over the recorded history.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backtest {
    pub rule: Rule,
    pub from: Option<Time>,
    pub to: Option<Time>,
    pub against: Option<Against>,
    /// Axes, as `when.value=110..140/5` or `on_delay=0s,15s`.
    #[schemars(length(max = 8))]
    pub sweep: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Against {
    Active,
}

/// The JSON form of a rule.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// That of the path; may be left out.
    #[schemars(with = "Option<Id>")]
    pub id: Option<String>,
    #[schemars(regex(pattern = r"^[A-Z][A-Z0-9_]{0,63}$"))]
    pub event: String,
    pub description: Option<String>,
    pub priority: Priority,
    /// `draft` when left out.
    pub mode: Option<Mode>,
    pub when: Condition,
    pub clear: Option<Clear>,
    pub on_delay: Option<Duration>,
    #[schemars(range(min = 1, max = 1000))]
    pub min_samples: Option<u32>,
    pub max_gap: Option<Duration>,
    pub re_alarm: Option<Duration>,
    pub latch: Option<bool>,
    pub lateness: Option<Duration>,
    pub scope: Option<Scope>,
    #[schemars(length(max = 32))]
    pub schedule: Option<Vec<Span>>,
    #[schemars(length(max = 32))]
    pub escalate: Option<Vec<Escalation>>,
    #[schemars(length(max = 32))]
    pub inhibited_by: Option<Vec<String>>,
    #[schemars(range(min = 0, max = 1))]
    pub min_quality: Option<f64>,
    pub bounds: Option<Bounds>,
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub max_pages_per_patient_day: Option<f64>,
}

/// A time as `60s` or `2m`, at most seven days.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Duration(pub String);

/// `vital`, `op` and `value`; or one of the others.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    pub vital: Option<Vital>,
    pub op: Option<Op>,
    pub value: Option<f64>,
    pub unit: Option<String>,
    pub delta: Option<Delta>,
    pub count: Option<Count>,
    pub missing: Option<Missing>,
    pub score: Option<Score>,
    pub suspect: Option<Suspect>,
    #[schemars(length(min = 1))]
    pub all: Option<Vec<Condition>>,
    #[schemars(length(min = 1))]
    pub any: Option<Vec<Condition>>,
    pub not: Option<Box<Condition>>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Op {
    #[serde(rename = ">")]
    Above,
    #[serde(rename = ">=")]
    NotBelow,
    #[serde(rename = "<")]
    Below,
    #[serde(rename = "<=")]
    NotAbove,
}

macro_rules! tables {
    ($($name:ident { $($(#[$of_field:meta])* $field:ident: $type:ty,)* })*) => {$(
        #[derive(Clone, Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(inline)]
        pub struct $name {
            $($(#[$of_field])* pub $field: $type,)*
        }
    )*};
}

tables! {
    Delta {
        vital: Vital,
        op: Op,
        value: f64,
        unit: Option<String>,
        within: Duration,
    }
    Count {
        vital: Vital,
        op: Op,
        value: f64,
        unit: Option<String>,
        #[schemars(range(min = 1))]
        n: u32,
        #[schemars(range(min = 1))]
        of: Option<u32>,
        within: Option<Duration>,
    }
    Missing {
        vital: Option<Vital>,
        r#for: Duration,
    }
    Score {
        #[schemars(range(min = 1, max = 20))]
        at_least: Option<u32>,
        #[schemars(range(min = 3, max = 3))]
        any_single: Option<u32>,
    }
    Suspect {
        vital: Option<Vital>,
    }
    Clear {
        value: Option<f64>,
        off_delay: Option<Duration>,
    }
    Scope {
        #[schemars(length(max = 32))]
        ward: Option<Vec<String>>,
        #[schemars(range(min = 0, max = 150))]
        min_age: Option<u32>,
        #[schemars(range(min = 0, max = 150))]
        max_age: Option<u32>,
    }
    Span {
        days: Option<Vec<Day>>,
        from: Option<String>,
        to: Option<String>,
        offset: Option<String>,
    }
    Escalation {
        after: Duration,
        unless: Option<Unless>,
        #[schemars(regex(pattern = r"^[A-Z][A-Z0-9_]{0,63}$"))]
        event: String,
    }
    Bounds {
        min: f64,
        max: f64,
    }
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Unless {
    Acked,
}
