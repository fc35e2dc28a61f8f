//! Silences, and what they held back.
#![allow(missing_docs, reason = "the names are those of the contract")]

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{Id, Links, Time};
use crate::event::AlertData;

/// Pages held back for a while, by somebody, for a reason.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Silence {
    pub id: Uuid,
    pub rule: Option<String>,
    pub patient_id: Option<String>,
    pub ward: Option<String>,
    pub by: String,
    pub reason: String,
    pub from: Time,
    pub until: Time,
    #[serde(rename = "_links")]
    pub links: Links,
}

/// A silence, with what it held back.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SilenceReceipt {
    #[serde(flatten)]
    pub silence: Silence,
    pub held_back: Vec<HeldBack>,
}

/// What was said and went to nobody.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldBack {
    #[serde(flatten)]
    pub alert: AlertData,
    pub patient_id: Id<'static>,
}
