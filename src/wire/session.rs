//! Who is signed in with a browser, and what opens a stream in its place.

use schemars::JsonSchema;
use serde::Serialize;

use super::value::Time;

/// What a browser's session is, for the ward's page.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BrowserSession {
    /// Whether somebody is.
    pub signed_in: bool,
    /// Where signing in begins; null where nobody can.
    pub sign_in: Option<String>,
    /// Why a session that was is none any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// As the provider names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What people call them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whose patients they see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// What they may by now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<&'static str>,
    /// At the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Time>,
    /// For `X-CSRF-Token` of whatever changes something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csrf: Option<String>,
}

/// Nobody is signed in any more.
#[derive(Clone, Debug, Serialize)]
pub struct SignedOut {
    /// Where the browser goes then.
    pub next: String,
}

/// What opens a stream without a token, for a minute.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamTicket {
    /// For the parameter `ticket`.
    pub ticket: String,
    /// When it opens none any more.
    pub expires_at: Time,
}
