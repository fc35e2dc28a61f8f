//! Webhook endpoints, and what became of deliveries.
#![allow(missing_docs, reason = "the names are those of the contract")]

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Links, Page, Time};

/// Where alerts go, and how.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    pub id: Uuid,
    pub url: String,
    pub events: Vec<String>,
    pub description: Option<String>,
    pub state: EndpointState,
    /// Why it is disabled.
    pub reason: Option<String>,
    /// Why, and until when, nothing but a probe is sent; null when the endpoint can be
    /// reached.
    pub breaker: Option<Breaker>,
    pub signature: Signature,
    /// `whpk_…`
    pub public_key: Option<String>,
    pub header_names: Vec<String>,
    pub client_certificate: Option<String>,
    pub payload: Payload,
    /// A pace like `60s`.
    pub heartbeat: Option<String>,
    pub fallback: bool,
    pub ordered: bool,
    pub created_at: Time,
    #[serde(rename = "_links")]
    pub links: Links,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct Breaker {
    pub state: BreakerState,
    pub since: Time,
    pub until: Time,
    pub reason: String,
}

macro_rules! words {
    ($($name:ident { $($word:ident),* })*) => {$(
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        #[schemars(inline)]
        pub enum $name {
            $($word),*
        }
    )*};
}

words! {
    EndpointState { Active, Paused, Disabled }
    BreakerState { Open, HalfOpen }
    Signature { Hmac, Ed25519 }
    Payload { Full, Thin }
    DeliveryState { Pending, Delivered, Dead }
}

/// An endpoint, with the key that signs for it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookWithSecret {
    #[serde(flatten)]
    pub webhook: Webhook,
    /// Told this once.
    pub secret: String,
    /// Until when the one before signs, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_until: Option<Time>,
}

/// What came of a test event.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ping {
    pub delivered: bool,
    pub webhook_id: String,
    pub status: Option<u16>,
    pub latency_ms: u64,
    pub error: Option<String>,
    pub answer: Option<String>,
}

/// How many deliveries are sent once more.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Replayed {
    #[schemars(range(min = 0))]
    pub replayed: i64,
    pub from: Time,
    pub to: Time,
}

/// One thing told to one endpoint.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    pub id: Uuid,
    pub endpoint_id: Uuid,
    pub webhook_id: String,
    pub event: String,
    pub sequence: Option<i64>,
    pub state: DeliveryState,
    /// Why it is dead.
    pub reason: Option<String>,
    #[schemars(range(min = 0))]
    pub attempts: i32,
    pub created_at: Time,
    pub finished_at: Option<Time>,
    pub next_attempt_at: Option<Time>,
    #[serde(rename = "_links")]
    pub links: Links,
}

/// A delivery with every attempt.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeliveryWithAttempts {
    #[serde(flatten)]
    pub delivery: Delivery,
    pub body: Told,
    /// Every attempt; their number stands under its own key.
    pub log: Vec<Attempt>,
}

/// One attempt.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    #[schemars(range(min = 1))]
    pub number: i32,
    pub started_at: Time,
    #[schemars(range(min = 0))]
    pub latency_ms: i32,
    pub status: Option<i32>,
    pub error: Option<String>,
    pub answer: Option<String>,
}

/// What is sent, as it was made.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Told(Box<RawValue>);

impl Told {
    /// Of the text that is stored: JSON of ours.
    pub fn new(body: String) -> Result<Told, serde_json::Error> {
        RawValue::from_string(body).map(Told)
    }
}

impl JsonSchema for Told {
    fn schema_name() -> Cow<'static, str> {
        "Told".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "additionalProperties": true,
            "description": "What is sent, as it was made.",
        })
    }
}

/// One thing that an endpoint was to be told.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NumberedEvent {
    #[schemars(range(min = 1))]
    pub sequence: i64,
    pub webhook_id: String,
    pub event: String,
    pub state: DeliveryState,
    pub created_at: Time,
    pub body: Told,
}

/// A page of what an endpoint was to be told, by number.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Numbered {
    #[serde(flatten)]
    pub page: Page<NumberedEvent>,
    /// The newest number that there is.
    #[schemars(range(min = 0))]
    pub last: i64,
    /// Of the log; the `webhook-incarnation` of deliveries that get their numbers now.
    #[schemars(range(min = 0))]
    pub incarnation: i64,
}
