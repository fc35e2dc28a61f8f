//! A patient's record.
//!
//! Guarantees the members that are ours. What a record itself says is written as it is
//! stored, in its order, and judged when it is taken: [`Record`] describes what is let
//! through.
#![allow(missing_docs, reason = "the names are those of the contract")]

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::NaiveDate;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Id, Links, Time};
use crate::vital::Vital;

/// What an answer tells of a record.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecordOf {
    pub patient_id: Id<'static>,
    #[serde(flatten)]
    #[schemars(with = "Record")]
    pub fields: Map<String, Value>,
    #[serde(rename = "_changed")]
    pub changed: Option<Changed>,
    #[serde(rename = "_links")]
    pub links: Links,
}

/// Whose token changed it last, and when.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Changed {
    pub by: String,
    pub at: Time,
}

/// Null removes a field. A key that is not named here is refused.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub ward: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub bed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub name: Option<String>,
    /// From 1850 to today.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub birth_date: Option<NaiveDate>,
    /// 2 where a clinician has set it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2))]
    pub spo2_scale: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 100), with = "Option<DevicesById>")]
    pub devices: Option<BTreeMap<String, Option<Registered>>>,
    /// The patient's own limits, as `heart_rate_high` or `spo2_low`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<LimitsByName>")]
    pub limits: Option<BTreeMap<String, Option<Limit>>>,
    /// Free: nothing reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<Map<String, Value>>,
    /// As an answer has it, which may be sent back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Id>")]
    pub patient_id: Option<String>,
    /// Of the answer.
    #[serde(rename = "_changed", skip_serializing_if = "Option::is_none")]
    pub changed: Option<Changed>,
    /// Of the answer.
    #[serde(rename = "_links", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Links>")]
    pub links: Option<Value>,
}

/// What is registered of a device.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct Registered {
    /// Between two readings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "f64", range(min = 0.01, max = 604_800))]
    pub interval_seconds: Option<f64>,
}

/// A limit of the patient's own.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum Limit {
    Value(f64),
    Until(LimitUntil),
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct LimitUntil {
    pub value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub by: Option<String>,
    /// For ever when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

struct DevicesById;
struct LimitsByName;

impl JsonSchema for DevicesById {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "DevicesById".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (id, device) =
            (generator.subschema_for::<Id>(), generator.subschema_for::<Option<Registered>>());
        json_schema!({ "type": "object", "propertyNames": id, "additionalProperties": device })
    }
}

impl JsonSchema for LimitsByName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "LimitsByName".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let sides = |vital: Vital| ["high", "low"].map(|side| format!("{}_{side}", vital.name()));
        let names: Vec<String> = Vital::all().flat_map(sides).collect();
        let limit = generator.subschema_for::<Option<Limit>>();
        json_schema!({
            "type": "object",
            "propertyNames": { "enum": names },
            "additionalProperties": limit,
        })
    }
}
