//! Problem documents: RFC 9457, with a stable code.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use super::{Rejected, Report};

/// An answer that is an error. Of what is beside the first five each kind has its own.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the contract")]
pub struct Problem {
    pub r#type: &'static str,
    pub title: &'static str,
    pub status: u16,
    /// Stable.
    pub code: &'static str,
    /// What a person can do.
    pub detail: String,
    /// JSON pointer into the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// What steers alarms and was left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erases: Option<Vec<&'static str>>,
    /// Of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Of the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicates: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Vec<Rejected>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_total: Option<usize>,
    /// Of a query, which is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// What it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<Vec<&'static str>>,
    /// Of what there is no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<&'static str>,
    /// Whose part of it is used up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whose: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backtest: Option<Box<Report>>,
    /// Where to go on in a restored log.
    #[serde(rename = "_links", skip_serializing_if = "Option::is_none")]
    pub links: Option<ProblemLinks>,
    /// The place in a restored log to go on from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "KnownOrNull")]
    pub last_event_id: Option<Option<String>>,
}

/// Where to go on.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct ProblemLinks {
    /// To begin anew.
    pub first: String,
    /// To miss nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Null where it is not known, and not only left out.
struct KnownOrNull;

impl JsonSchema for KnownOrNull {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "KnownOrNull".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": ["string", "null"] }] })
    }
}
