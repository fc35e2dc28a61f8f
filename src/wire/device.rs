//! Devices: what is registered of them, and to whom they are assigned.
#![allow(missing_docs, reason = "the names are those of the contract")]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Device, Id, Links, Number, Time};
use crate::vital::Vital;

/// A device, at each patient that it has measured.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceAtPatients {
    pub device_id: Id<'static>,
    pub patients: Vec<Device>,
    /// The device of which this id is an alias.
    pub alias_of: Option<Id<'static>>,
    pub registered: Option<RegisteredDevice>,
    /// Oldest first; at a moment at most one.
    pub assignments: Vec<Assignment>,
    /// Whose readings are being moved, by which job.
    pub reassignment: Option<String>,
}

/// A device, as it was changed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceInRegistry {
    pub device_id: Id<'static>,
    pub registered: Option<RegisteredDevice>,
    /// Oldest first.
    pub assignments: Vec<Assignment>,
    #[serde(rename = "_links")]
    pub links: Links,
}

/// What is registered of a device, and who said so.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct RegisteredDevice {
    pub model: Option<String>,
    pub vitals: Option<Vec<Vital>>,
    pub interval_seconds: Option<Number>,
    pub aliases: Vec<String>,
    pub by: String,
    pub at: Time,
}

/// A device at a patient: from a moment on, until another one or still.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Assignment {
    pub patient_id: Id<'static>,
    pub from: Time,
    /// Not included.
    pub to: Option<Time>,
    pub by: String,
    pub recorded_at: Time,
}

/// All that is registered of a device.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceRegistration {
    #[schemars(length(min = 1, max = 200))]
    pub model: Option<String>,
    #[schemars(with = "Option<Vec<Vital>>")]
    pub vitals: Option<Vec<String>>,
    #[schemars(range(min = 0.01, max = 604_800))]
    pub interval_seconds: Option<f64>,
    /// Ids under which it also sends; each is one device's alone.
    #[schemars(with = "Option<Vec<Id>>", length(max = 16))]
    pub aliases: Option<Vec<String>>,
}

/// From a moment on a device measures this patient. All optional here, so that each that lacks
/// is told with its place.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(description = "From a moment on a device measures this patient.")]
pub struct NewAssignment {
    #[schemars(required, with = "Id")]
    pub patient_id: Option<String>,
    /// Now when left out.
    #[schemars(with = "Option<Time>")]
    pub from: Option<String>,
}

/// From a moment on a device measures nobody.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndedAssignment {
    /// Now when left out.
    #[schemars(with = "Option<Time>")]
    pub from: Option<String>,
}

/// What a device measured from `from` until `to` was this patient's. All optional here, as above.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(description = "What a device measured from `from` until `to` was this patient's.")]
pub struct Reassignment {
    #[schemars(required, with = "Time")]
    pub from: Option<String>,
    /// Not included, and not in the future.
    #[schemars(required, with = "Time")]
    pub to: Option<String>,
    #[schemars(required, with = "Id")]
    pub patient_id: Option<String>,
    #[schemars(required, with = "String", length(min = 1, max = 1000))]
    pub reason: Option<String>,
}
