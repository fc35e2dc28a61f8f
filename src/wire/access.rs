//! Who has read or changed what of whom.
#![allow(missing_docs, reason = "the names are those of the contract")]

use schemars::JsonSchema;
use serde::Serialize;

use super::{Id, Time};

/// An access; or several that were the same but for their times.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Of this one, in its tenant.
    pub id: String,
    /// When it was, or the first of them.
    pub at: Time,
    /// When the last of them was.
    pub until: Option<Time>,
    /// How many there were.
    #[schemars(range(min = 1))]
    pub count: u64,
    pub recorded_at: Time,
    pub action: AccessAction,
    /// Who it was.
    pub subject: String,
    /// What they came by.
    pub by: Option<AccessBy>,
    /// The name of their token (`jti`), session or key.
    pub token_id: Option<String>,
    /// The other end of the connection.
    pub address: Option<String>,
    pub method: String,
    /// Without what stands in it; `none` where there is no such route.
    pub route: String,
    /// What was answered; null if they were gone before.
    pub status: Option<u16>,
    /// Of a refusal.
    pub code: Option<String>,
    pub patient_id: Option<Id<'static>>,
    pub device_id: Option<String>,
    pub ward: Option<String>,
    /// The `{id}` of the route: of an alert, a rule, a webhook.
    pub resource_id: Option<String>,
}

/// What was done; `passed_over`: so many reads could not be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum AccessAction {
    Read,
    Change,
    Readings,
    SignIn,
    SignOut,
    PassedOver,
}

/// By which means somebody is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum AccessBy {
    Token,
    Certificate,
    Link,
    Session,
    Ticket,
    Key,
}
