//! Bodies of webhooks, version 1.
//!
//! Guarantees that a body says the same whatever the endpoint and the attempt are: it is
//! rendered once, stored, and signed as it is. Does not know who is told.
#![allow(missing_docs, reason = "the names are those of the contract")]

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{Id, Number, Time};
use crate::event::{AlertEventKind, Priority};
use crate::vital::Vital;

/// An alert, for receivers in the hospital.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertBody<'a> {
    pub r#type: &'a str,
    pub timestamp: Time,
    pub patient_id: Id<'a>,
    pub event: &'a str,
    pub vital: Vital,
    pub value: Number,
    pub unit: &'a str,
    pub alert_id: Uuid,
    pub state: AlertEventKind,
    pub rule: &'a str,
    pub rule_version: u32,
    pub priority: Priority,
    pub since: Time,
    pub measured_at: Time,
    pub device_id: Id<'a>,
    #[serde(rename = "_links")]
    pub links: AlertBodyLinks,
}

/// Where to look, and where to answer.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct AlertBodyLinks {
    pub alert: String,
    /// Needs no token.
    pub ack: String,
    /// Not in a stub: it names the patient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patient: Option<String>,
}

/// The body for receivers outside the hospital: that there is an alert, how urgent, and
/// where to look. No patient, no device, no value, no time of a measurement.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertStub<'a> {
    pub r#type: &'a str,
    pub timestamp: Time,
    pub event: &'a str,
    pub alert_id: Uuid,
    pub state: AlertEventKind,
    pub priority: Priority,
    #[serde(rename = "_links")]
    pub links: AlertBodyLinks,
}

/// What is said about an endpoint itself.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NoticeBody<'a> {
    pub r#type: &'a str,
    pub timestamp: Time,
    pub event: &'a str,
    pub endpoint_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    #[serde(rename = "_links")]
    pub links: NoticeBodyLinks,
}

/// Where the endpoint stands, and what it was sent.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NoticeBodyLinks {
    pub webhook: String,
    pub deliveries: String,
}

/// That the way to a receiver is open, and by when the next of these comes.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatBody {
    pub r#type: &'static str,
    pub timestamp: Time,
    pub event: &'static str,
    pub webhook: Uuid,
    pub next_within_seconds: i32,
}

/// A test, now.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PingBody {
    pub r#type: &'static str,
    pub timestamp: Time,
    pub event: &'static str,
    pub webhook: Uuid,
    #[serde(rename = "_links")]
    pub links: PingBodyLinks,
}

/// Where the endpoint stands.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PingBodyLinks {
    pub webhook: String,
}
