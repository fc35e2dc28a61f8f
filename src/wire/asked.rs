//! Bodies that are asked for, as they are read.
//!
//! Guarantees that a body's description is of the type that reads it; but for readings,
//! which are read by hand ([`Readings`] describes what is taken). Does not judge values:
//! whoever takes them does.
#![allow(missing_docs, reason = "the names are those of the contract")]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::endpoint::{Payload, Signature};
use super::{Id, Quality, Time};
use crate::vital::Vital;

/// A field that may be left out, be null, or be there.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// One, or up to 10,000; as `application/x-ndjson` any number, a line each.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Readings {
    One(SentReading),
    Many(#[schemars(length(min = 1, max = 10_000))] Vec<SentReading>),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Reading")]
pub struct SentReading {
    /// Left out by the token of a device: the patient to whom it is assigned then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Id")]
    pub patient_id: Option<String>,
    #[schemars(with = "Id")]
    pub device_id: String,
    pub vital: Vital,
    pub value: f64,
    /// UCUM; the canonical one when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub unit: Option<String>,
    /// At most five minutes ahead of the server.
    pub measured_at: Time,
    /// The device's own opinion of its signal; or the platform's word, which it finds anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SentQuality")]
    pub quality: Option<SentQuality>,
    /// The device's own opinion, as answers name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "f64", range(min = 0, max = 1))]
    pub device_quality: Option<f64>,
    /// Anything small, stored as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub context: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum SentQuality {
    Opinion(#[schemars(range(min = 0, max = 1))] f64),
    Word(Quality),
}

/// What somebody says of an alert.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgementRequest {
    /// Who; the token's subject when left out.
    #[schemars(length(min = 1, max = 200))]
    pub by: Option<String>,
    #[schemars(length(max = 1000))]
    pub note: Option<String>,
}

/// A reading that was entered in error, by its natural key. All optional here, so that each
/// that lacks is told with its place.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(description = "A reading that was entered in error, by its natural key.")]
pub struct Retraction {
    #[schemars(required, with = "Vital")]
    pub vital: Option<String>,
    #[schemars(required, with = "Id")]
    pub device_id: Option<String>,
    #[schemars(required, with = "Time")]
    pub measured_at: Option<String>,
    #[schemars(required, with = "String", length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// Whose tokens are no longer taken: all that a subject has by now, or one by its `jti`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Revocation {
    #[schemars(length(min = 1, max = 255))]
    pub sub: Option<String>,
    #[schemars(length(min = 1, max = 255))]
    pub jti: Option<String>,
    #[schemars(required, with = "String", length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// Of a rule, a patient or a ward, or of what all of those named have in common.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewSilence {
    #[schemars(with = "Option<Id>")]
    pub rule: Option<String>,
    #[schemars(with = "Option<Id>")]
    pub patient_id: Option<String>,
    #[schemars(length(max = 64))]
    pub ward: Option<String>,
    #[schemars(length(min = 1, max = 1000))]
    pub reason: String,
    /// Within the next 24 hours.
    pub until: Time,
}

/// An endpoint that is to be made.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewWebhook {
    #[schemars(url)]
    pub url: String,
    #[schemars(length(max = 50))]
    pub events: Vec<String>,
    #[schemars(with = "Option<Signature>")]
    pub signature: Option<String>,
    /// `whsec_…` or `whsk_…`; made when left out.
    pub secret: Option<String>,
    #[schemars(length(max = 500))]
    pub description: Option<String>,
    /// Sent with every request; never shown.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// PEM.
    pub client_certificate: Option<String>,
    /// PEM; never shown.
    pub client_key: Option<String>,
    #[schemars(with = "Option<Payload>")]
    pub payload: Option<String>,
    /// A pace like `60s`.
    pub heartbeat: Option<String>,
    /// Gets the high alarms that another endpoint cannot take; then `events` may be empty.
    #[serde(default)]
    pub fallback: bool,
    /// What is said of one alert goes out one after the other.
    #[serde(default)]
    pub ordered: bool,
}

/// What is to be changed of an endpoint; what is left out stays.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangedWebhook {
    #[schemars(url)]
    pub url: Option<String>,
    #[schemars(length(max = 50))]
    pub events: Option<Vec<String>>,
    #[schemars(length(max = 500))]
    pub description: Option<String>,
    #[schemars(with = "Option<WantedState>")]
    pub state: Option<String>,
    pub headers: Option<BTreeMap<String, String>>,
    /// PEM.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<Option<String>>,
    /// PEM; never shown.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub client_key: Option<Option<String>>,
    #[schemars(with = "Option<Payload>")]
    pub payload: Option<String>,
    /// A pace like `60s`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Option<String>>,
    pub fallback: Option<bool>,
    pub ordered: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
#[allow(dead_code, reason = "for the description alone: others are refused with a code")]
enum WantedState {
    Active,
    Paused,
}

/// What signs from now on.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    #[schemars(with = "Option<Signature>")]
    pub signature: Option<String>,
    pub secret: Option<String>,
}

/// Which deliveries are sent once more.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    pub from: Time,
    pub to: Option<Time>,
    #[schemars(with = "Option<FinishedState>")]
    pub state: Option<String>,
    pub event: Option<String>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
#[allow(dead_code, reason = "for the description alone: others are refused with a code")]
enum FinishedState {
    Delivered,
    Dead,
}
