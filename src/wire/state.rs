//! How a patient is or was, and what has become known of it since.
#![allow(missing_docs, reason = "the names are those of the contract")]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Alert, Id, Links, Number, Quality, Reading, Time, Unit};
use crate::vital::Vital;

/// A patient's state, now or at a moment.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub patient_id: Id<'static>,
    pub ward: Option<String>,
    pub as_of: Option<Time>,
    /// Settled: never later than the present.
    pub known_at: Option<Time>,
    pub vitals: BTreeMap<Vital, Current>,
    pub alerts: Vec<Alert>,
    pub news2: News2,
    #[serde(rename = "_links")]
    pub links: Links,
}

/// The newest reading of a vital.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Value")]
pub struct Current {
    pub value: Number,
    pub unit: Unit<'static>,
    pub measured_at: Time,
    pub recorded_at: Time,
    pub device_id: Id<'static>,
    pub quality: Quality,
    #[schemars(range(min = 0))]
    pub age_seconds: i64,
}

/// NEWS2, and what it is made of.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct News2 {
    pub score: u32,
    pub band: Band,
    /// Something is missing or stale: the truth may be higher.
    pub partial: bool,
    #[schemars(with = "Vec<Vital>")]
    pub missing: Vec<&'static str>,
    #[schemars(with = "Vec<Vital>")]
    pub stale: Vec<&'static str>,
    /// Points by vital, 0 to 3.
    #[schemars(with = "BTreeMap<Vital, u32>")]
    pub parts: BTreeMap<&'static str, u32>,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Band {
    Low,
    LowMedium,
    Medium,
    High,
}

/// What was known at a moment against what is known of it now.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Diff {
    pub patient_id: Id<'static>,
    pub as_of: Time,
    pub known_at: Time,
    pub from: Time,
    pub readings: Vec<ChangedReading>,
    pub alerts: Vec<ChangedAlert>,
    pub then: State,
    pub now: State,
    pub next: Option<String>,
    #[serde(rename = "_links")]
    pub links: DiffLinks,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct DiffLinks {
    #[serde(rename = "self")]
    pub this: String,
    pub next: Option<String>,
    pub then: String,
    pub now: String,
    pub readings: String,
}

/// A reading that was not known then, or is not believed any more.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChangedReading {
    #[serde(flatten)]
    pub reading: Reading<'static>,
    pub change: ChangeOfReading,
    #[serde(flatten)]
    pub retracted: Option<RetractedSince>,
}

/// Recorded after that moment, or retracted since.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ChangeOfReading {
    Late,
    Retracted,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetractedSince {
    pub retracted_at: Time,
    pub reason: Option<String>,
}

/// An alert of which something else is known now.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChangedAlert {
    #[serde(flatten)]
    pub alert: Alert,
    pub change: ChangeOfAlert,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ChangeOfAlert {
    Added,
    Removed,
    Acknowledged,
    Missed,
}
