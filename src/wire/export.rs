//! Exports: what is asked for, and what came of it.
#![allow(missing_docs, reason = "the names are those of the contract")]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Time;
use crate::vital::Vital;

/// What readings come as where all of them are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum TableFormat {
    Csv,
    Ndjson,
    Parquet,
}

impl TableFormat {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            TableFormat::Csv => "text/csv",
            TableFormat::Ndjson => "application/x-ndjson",
            TableFormat::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// As which a file of it is known.
    pub fn extension(self) -> &'static str {
        match self {
            TableFormat::Csv => "csv",
            TableFormat::Ndjson => "ndjson",
            TableFormat::Parquet => "parquet",
        }
    }
}

/// Which readings are wanted, and as what. All where nothing is said.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExport {
    pub format: TableFormat,
    /// Measured from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,
    /// Until here, not included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Time>,
    /// Of these patients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub patients: Option<Vec<String>>,
    /// Of these vitals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub vitals: Option<Vec<Vital>>,
    /// Who alone can read it: public keys of age (`age1…`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub recipients: Option<Vec<String>>,
}

/// What an export holds. Its bytes are at `_links.data`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExportResult {
    pub format: TableFormat,
    /// Whether it was written for recipients.
    pub encrypted: bool,
    #[schemars(range(min = 0))]
    pub bytes: i64,
    #[schemars(range(min = 0))]
    pub readings: i64,
    /// Of whom there are any.
    #[schemars(range(min = 0))]
    pub patients: i64,
    /// Of the bytes, as they are handed out.
    pub sha256: String,
    /// Until when they are.
    pub expires_at: Time,
}
