//! Who one is, and where to go.
#![allow(missing_docs, reason = "the names are those of the contract")]

use schemars::JsonSchema;
use serde::Serialize;

use super::{Id, Links};

/// What a token may do here.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Root {
    pub tenant: Id<'static>,
    pub subject: String,
    pub scopes: Vec<String>,
    /// The one device that the token is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Id<'static>>,
    /// The one patient that the token is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patient: Option<Id<'static>>,
    /// The wards that the token is for, whatever it may do there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wards: Option<Vec<String>>,
    pub operations: Vec<Allowed>,
    #[serde(rename = "_links")]
    pub links: Links,
}

/// A request that the token may make.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Allowed {
    pub method: String,
    /// With names in braces for what differs.
    pub href: String,
    pub what: String,
}
