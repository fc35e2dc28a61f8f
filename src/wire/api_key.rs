//! API keys: what is asked for, and what is told of them.
#![allow(missing_docs, reason = "the names are those of the contract")]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Id, Time};

/// A key for what cannot make a JWT; no wider than the token that makes it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewApiKey {
    /// What it is for, for people.
    #[schemars(required, with = "String", length(min = 1, max = 200))]
    pub name: Option<String>,
    /// What it may, with spaces between. This or `role`.
    pub scope: Option<String>,
    /// Whose scopes it has, but for `keys:manage`.
    pub role: Option<String>,
    /// The one device that it is for.
    #[schemars(with = "Option<Id>")]
    pub device: Option<String>,
    /// The one patient that it is for.
    #[schemars(with = "Option<Id>")]
    pub patient: Option<String>,
    /// The wards that it is for.
    #[schemars(length(min = 1, max = 100))]
    pub wards: Option<Vec<String>>,
    /// For ever when left out.
    pub expires_at: Option<Time>,
}

/// A key, without its secret.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    pub id: String,
    pub name: String,
    pub scopes: Vec<String>,
    /// The subject by which limits, events and revocations know it.
    pub subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Id<'static>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patient: Option<Id<'static>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wards: Option<Vec<String>>,
    pub made_by: String,
    pub made_at: Time,
    pub expires_at: Option<Time>,
    /// The hour in which it was last used.
    pub last_used_at: Option<Time>,
    pub revoked_at: Option<Time>,
    pub revoked_by: Option<String>,
}

/// A key that was made, with all of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyWithSecret {
    #[serde(flatten)]
    pub api_key: ApiKey,
    /// Told this once: `vk_…`.
    pub key: String,
}
