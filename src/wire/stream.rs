//! Events of a stream or a replay, as their data has them.
//!
//! Guarantees that what the log says of a reading or an alert is told whole. What is not for
//! outside has no event.
#![allow(missing_docs, reason = "the names are those of the contract")]

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Acknowledgement, Context, Id, Number, Opinion, Quality, Reading, Time};
use crate::event::{
    ALERT_ACKNOWLEDGED, AlertData, READING, READING_RETRACTED, Recorded, RetractionData,
};

/// What happened.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum StreamEvent<'a> {
    Reading(ReadingEvent<'a>),
    Alert(Box<AlertEvent<'a>>),
    Acknowledged(AcknowledgedEvent<'a>),
    Retraction(RetractionEvent<'a>),
}

/// A reading, as it came.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ReadingEvent<'a> {
    pub r#type: &'static str,
    #[serde(flatten)]
    pub reading: Reading<'a>,
}

/// Something that a rule says.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertEvent<'a> {
    #[serde(flatten)]
    pub said: AlertData,
    pub r#type: Cow<'a, str>,
    pub patient_id: Id<'a>,
    pub recorded_at: Time,
}

/// Somebody has answered an alert.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcknowledgedEvent<'a> {
    #[serde(flatten)]
    pub said: AcknowledgementData,
    pub r#type: Cow<'a, str>,
    pub patient_id: Id<'a>,
    pub recorded_at: Time,
    pub measured_at: Time,
}

/// What the event of an acknowledgement says. Version 1 of its schema.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcknowledgementData {
    pub v: u8,
    pub alert_id: Uuid,
    pub state: String,
    pub event: String,
    pub acknowledged: Acknowledgement,
}

/// A reading was entered in error.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetractionEvent<'a> {
    #[serde(flatten)]
    pub said: RetractionData,
    pub by: Cow<'a, str>,
    pub r#type: Cow<'a, str>,
    pub patient_id: Id<'a>,
    pub recorded_at: Time,
}

impl<'a> StreamEvent<'a> {
    /// What is told of an event; `None` for what is not for outside, and an error for what
    /// cannot be read.
    pub fn of(recorded: &'a Recorded) -> Result<Option<StreamEvent<'a>>, serde_json::Error> {
        let event = &recorded.event;
        let recorded_at = Time(recorded.recorded_at);
        let (r#type, patient_id) = (Cow::from(&*event.kind), Id::from(&*event.patient_id));
        let data = event.data.as_deref();
        Ok(match (&*event.kind, data) {
            (READING, context) => {
                let (Some(vital), Some(value)) = (event.vital, event.value) else {
                    return Ok(None);
                };
                let reading = Reading {
                    patient_id,
                    device_id: (&*event.source_id).into(),
                    vital,
                    value: Number(value),
                    unit: vital.unit().into(),
                    quality: Quality::of(event.suspect),
                    measured_at: event.occurred_at.into(),
                    recorded_at,
                    device_quality: event.quality.map(Opinion),
                    context: context.map(Context::new),
                };
                Some(StreamEvent::reading(reading))
            }
            (READING_RETRACTED, Some(data)) => {
                let (said, by) = (serde_json::from_str(data)?, (&*event.source_id).into());
                let retraction = RetractionEvent { said, by, r#type, patient_id, recorded_at };
                Some(StreamEvent::Retraction(retraction))
            }
            (ALERT_ACKNOWLEDGED, Some(data)) => {
                Some(StreamEvent::Acknowledged(AcknowledgedEvent {
                    said: serde_json::from_str(data)?,
                    r#type,
                    patient_id,
                    recorded_at,
                    measured_at: event.occurred_at.into(),
                }))
            }
            _ => event.alert()?.map(|said| {
                StreamEvent::Alert(Box::new(AlertEvent { said, r#type, patient_id, recorded_at }))
            }),
        })
    }

    /// Of a reading.
    pub fn reading(reading: Reading<'a>) -> StreamEvent<'a> {
        StreamEvent::Reading(ReadingEvent { r#type: READING, reading })
    }

    /// Its name in a stream.
    pub fn name(&self) -> &'static str {
        match self {
            StreamEvent::Reading(_) => "reading",
            StreamEvent::Alert(_) | StreamEvent::Acknowledged(_) => "alert",
            StreamEvent::Retraction(_) => "retraction",
        }
    }

    /// Which device it is of; empty where it is of none.
    pub fn device_id(&self) -> &str {
        match self {
            StreamEvent::Reading(event) => event.reading.device_id.as_ref(),
            StreamEvent::Alert(event) => &event.said.device_id,
            StreamEvent::Acknowledged(_) => "",
            StreamEvent::Retraction(event) => &event.said.device_id,
        }
    }
}

/// The log was restored: this history of it has ended.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LogRestored {
    /// The incarnation that has ended.
    pub before: i64,
    #[serde(flatten)]
    pub place: Option<RestoredPlace>,
}

/// Where a stream goes on, if that is known.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoredPlace {
    pub incarnation: Option<i64>,
    pub last_event_id: Option<String>,
}

/// What a client that took nothing is told before it is let go.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lagging {
    pub stalled_seconds: u64,
}

/// A replay is over.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct End {}

/// The Server-Sent Events of a stream, for its description.
pub struct Events;

impl JsonSchema for Events {
    fn schema_name() -> Cow<'static, str> {
        "Events".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let data = [
            generator.subschema_for::<StreamEvent>(),
            generator.subschema_for::<LogRestored>(),
            generator.subschema_for::<Lagging>(),
            generator.subschema_for::<End>(),
        ];
        json_schema!({
            "type": "object",
            "description": "Each of the Server-Sent Events. A comment comes at least every ten seconds, also \
                            beside an `id` alone, which moves the place.",
            "required": ["event", "data"],
            "properties": {
                "event": {
                    "enum": ["reading", "alert", "retraction", "end", "lagging", "log_restored"],
                    "description": "`end` is a replay's; `lagging` comes before a client that took nothing is \
                                    let go; `log_restored` ends a stream whose history of the log has ended, \
                                    and its `id` is the place from which nothing of the new one is missed.",
                },
                "id": {
                    "type": "string",
                    "description": "A place to resume from, as `Last-Event-ID`.",
                },
                "data": {
                    "type": "string",
                    "description": "JSON.",
                    "contentMediaType": "application/json",
                    "contentSchema": { "anyOf": data },
                },
            },
        })
    }
}
