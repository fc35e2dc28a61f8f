//! Alerts: as they stand, what was said of them, and who has answered.
#![allow(missing_docs, reason = "the names are those of the contract")]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Id, Links, Number, Time, Unit};
use crate::event::{Because, Priority};
use crate::vital::Vital;

/// An alert as lists and states show it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    pub id: Uuid,
    pub patient_id: Id<'static>,
    pub event: String,
    pub state: AlertState,
    pub priority: Priority,
    pub vital: Vital,
    pub value: Number,
    pub unit: Unit<'static>,
    pub device_id: Id<'static>,
    pub rule: Id<'static>,
    #[schemars(range(min = 1))]
    pub rule_version: i32,
    /// When what it stands on was measured.
    pub since: Time,
    /// When it was recorded as raised.
    pub raised_at: Time,
    /// Never before `since`: a clock that ran ahead does not end it before it began. The
    /// reading's own time is in the history.
    pub cleared_at: Option<Time>,
    pub cleared_value: Option<Number>,
    pub acknowledged: Option<Acknowledgement>,
    #[serde(rename = "_links")]
    pub links: Links,
    /// Of a rule on trial: nobody was paged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<OnTrial>,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum OnTrial {
    Shadow,
}

/// `ended` are those that stood when their rule was no longer on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum AlertState {
    Active,
    Ended,
    Cleared,
    Missed,
    Retracted,
}

/// Who has answered. Older ones do not know how somebody came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Acknowledgement {
    /// The name that was given.
    #[serde(default)]
    pub by: Option<String>,
    /// Whose token it was; nobody's by a link.
    #[serde(default)]
    pub subject: Option<String>,
    #[serde(default)]
    pub via: Option<Via>,
    pub at: Time,
    #[serde(default)]
    pub note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Via {
    Token,
    Link,
}

/// The alert; by a link no more than this of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Acknowledged {
    ByToken(Box<Alert>),
    ByLink { id: Uuid, state: AlertState, acknowledged: Option<Acknowledgement> },
}

/// An alert, and what raised it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct AlertWithHistory {
    #[serde(flatten)]
    pub alert: Alert,
    pub readings: Vec<Raising>,
    /// What the rule knew.
    pub because: Option<Because>,
    /// Everything that was said of it, in order.
    pub history: Vec<Said>,
}

/// The reading that an alert stands on.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Raising {
    pub patient_id: Id<'static>,
    pub device_id: Id<'static>,
    pub vital: Vital,
    pub value: Number,
    pub unit: Unit<'static>,
    pub measured_at: Time,
}

/// Something that was said of an alert.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    pub r#type: String,
    pub state: Option<String>,
    pub value: Option<Number>,
    /// Which device's reading said so: of a clearing, the one that cleared it.
    pub device_id: Option<String>,
    /// When that was measured, by the device's clock.
    pub measured_at: Option<Time>,
    /// The device that had raised it and was not heard of, if another one cleared it.
    pub silent_device: Option<String>,
    pub rule: Option<String>,
    pub rule_version: Option<u32>,
    pub by: Option<String>,
    /// Whose token it was.
    pub subject: Option<String>,
    pub via: Option<Via>,
    pub silenced_by: Option<Uuid>,
    pub at: Time,
    pub recorded_at: Time,
}
