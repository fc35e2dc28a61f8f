//! Answers made for one kind of screen, of the same parts as all others.
#![allow(missing_docs, reason = "the names are those of the contract")]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{Band, Id, Links, Number, State};
use crate::vital::Vital;

/// All that a ward's wall needs, in one answer.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ward {
    pub ward: String,
    pub patients: Vec<InBed>,
    /// Active alerts of all of them.
    pub alerts: usize,
    /// The highest score of NEWS2 among them.
    pub news2: Option<u32>,
    /// More patients than one answer takes: the others are in the list.
    pub is_cut: bool,
    #[serde(rename = "_links")]
    pub links: Links,
}

/// A patient as a wall shows them.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InBed {
    pub bed: Option<String>,
    pub name: Option<String>,
    #[serde(flatten)]
    pub state: State,
}

/// A patient on a phone: fewer than 500 bytes with seven vitals and an alert.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mobile {
    pub patient_id: Id<'static>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bed: Option<String>,
    pub vitals: BTreeMap<Vital, MobileValue>,
    pub news2: MobileScore,
    /// How many are active, and the one that is to be seen first.
    pub alerts: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alert: Option<MobileAlert>,
}

/// In the vital's unit, and how many seconds old.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct MobileValue {
    pub value: Number,
    #[schemars(range(min = 0))]
    pub age: i64,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct MobileScore {
    pub score: u32,
    pub band: Band,
    /// Something is missing or stale: the truth may be higher.
    pub partial: bool,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct MobileAlert {
    pub id: Uuid,
    pub event: String,
    /// Somebody has seen it.
    pub acknowledged: bool,
}
