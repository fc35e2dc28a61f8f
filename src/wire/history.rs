//! Readings: as they are stored, as they are listed, summed up, newest, and what sends them.
#![allow(missing_docs, reason = "the names are those of the contract")]

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::{Context, Id, Number, Opinion, Page, Quality, Time, Unit};
use crate::vital::Vital;

/// A reading as the log has it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StoredReading")]
pub struct Reading<'a> {
    pub patient_id: Id<'a>,
    pub device_id: Id<'a>,
    pub vital: Vital,
    pub value: Number,
    pub unit: Unit<'a>,
    pub quality: Quality,
    pub measured_at: Time,
    pub recorded_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_quality: Option<Opinion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Context<'a>>,
}

/// Readings of a stretch of time, summed up.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Bucket {
    pub start: Time,
    pub min: Number,
    pub max: Number,
    pub avg: Number,
    #[schemars(range(min = 1))]
    pub count: i64,
}

/// A reading, or with `every` a bucket.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum Item {
    Reading(Box<Reading<'static>>),
    Bucket(Bucket),
}

/// A page of a patient's history.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct History {
    #[serde(flatten)]
    pub page: Page<Item>,
}

/// The value stands under the vital's name in camelCase.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 6, "maxProperties" = 6))]
pub struct Newest {
    pub patient_id: Id<'static>,
    #[serde(flatten)]
    pub value: ValueByName,
    pub unit: Unit<'static>,
    pub timestamp: Time,
    pub device_id: Id<'static>,
    pub quality: Quality,
}

/// One member: the value, under its vital's name.
#[derive(Clone, Copy, Debug)]
pub struct ValueByName(pub Vital, pub Number);

impl Serialize for ValueByName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map([(self.0.json_key(), self.1)])
    }
}

impl JsonSchema for ValueByName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ValueByName".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let number = generator.subschema_for::<Number>().to_value();
        let members = Vital::all().map(|vital| (vital.json_key().to_owned(), number.clone()));
        let members: serde_json::Map<String, serde_json::Value> = members.collect();
        json_schema!({ "type": "object", "properties": members })
    }
}

/// Why an item was not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Rejected {
    /// Its place in the request.
    pub index: usize,
    /// Stable.
    pub code: &'static str,
    /// For a person, with the mend.
    pub detail: String,
    /// JSON pointer into the request's body.
    pub pointer: String,
}

/// What became of a batch.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    pub stored: usize,
    pub duplicates: usize,
    pub rejected: Vec<Rejected>,
    /// How many there are, where not all are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_total: Option<usize>,
}

/// A reading that is no longer used.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retracted {
    pub patient_id: Id<'static>,
    pub vital: Vital,
    pub device_id: Id<'static>,
    pub measured_at: Time,
    pub value: Number,
    pub unit: Unit<'static>,
    pub reason: String,
    /// Who was first to say so.
    pub by: String,
    pub retracted_at: Time,
}

/// Tokens that are no longer taken.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevokedTokens {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    pub reason: String,
    /// Who did it.
    pub by: String,
    pub revoked_at: Time,
}

/// A device at a patient.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    pub device_id: Id<'static>,
    pub patient_id: Id<'static>,
    /// When its newest reading was measured.
    pub last_seen: Time,
    pub last_recorded: Option<Time>,
    /// Of the last `hours`.
    #[schemars(range(min = 0))]
    pub readings: i64,
    #[schemars(range(min = 0))]
    pub suspects: i64,
    pub interval_seconds: Option<Number>,
    /// Where `intervalSeconds` comes from.
    pub interval_from: Option<IntervalFrom>,
    /// The share of the expected readings that came, 0 to 1.
    pub coverage: Option<f64>,
    /// The shortest time from measured to recorded; below zero its clock is ahead.
    pub delay_seconds: Option<f64>,
    #[schemars(range(min = 0))]
    pub hours: i64,
    /// Whether the device is assigned to this patient now.
    pub assigned: bool,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum IntervalFrom {
    Registered,
    Learnt,
}
