//! Answers to an alert: somebody has seen it, or says that it is over.
//!
//! Guarantees that an answer is an event like any other, in the name of whose token it was.
//! Does not clear an alert, which the rules do when they are asked to, and does not know
//! who was first: the projection keeps that.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::event::{ALERT_ACKNOWLEDGED, ALERT_CLEAR_REQUESTED, Event};
use crate::log::{AppendError, Log};
use crate::query::alerts::Alert;

/// What a person says of an alert, and how it is known that they do.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The name that they gave; nobody's if they gave none.
    pub by: Option<&'a str>,
    /// Whose token it was; nobody's if it was a link.
    pub subject: Option<&'a str>,
    /// What they came by.
    pub via: Via,
    /// What else they said.
    pub note: Option<&'a str>,
}

impl Answer<'_> {
    /// Who says so, for the log: the token and not the name that was given with it.
    fn source(&self) -> &str {
        self.subject.unwrap_or("link")
    }
}

/// What somebody came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A token, which says who it is.
    Token,
    /// The link that came with the alert, which whoever has it can use.
    Link,
}

impl Via {
    /// As on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Via::Token => "token",
            Via::Link => "link",
        }
    }
}

/// Asks the rules to clear an alert, in the name of a person.
pub async fn request_clear(
    log: &Log,
    tenant: &str,
    alert: &Alert,
    answer: &Answer<'_>,
    now: DateTime<Utc>,
) -> Result<(), AppendError> {
    let data = json!({
        "v": 1,
        "alertId": alert.id,
        "state": "clear_requested",
        "event": alert.event,
        "by": answer.by,
        "subject": answer.subject,
        "via": answer.via.name(),
        "note": answer.note,
    });
    say(ALERT_CLEAR_REQUESTED, log, (tenant, alert), answer, (now, data)).await
}

/// Puts an acknowledgement into the log. The first one counts; the projection keeps
/// that, so two nurses at once need no lock.
pub async fn acknowledge(
    log: &Log,
    tenant: &str,
    alert: &Alert,
    answer: &Answer<'_>,
    now: DateTime<Utc>,
) -> Result<(), AppendError> {
    let data = json!({
        "v": 1,
        "alertId": alert.id,
        "state": "acknowledged",
        "event": alert.event,
        "acknowledged": {
            "by": answer.by,
            "subject": answer.subject,
            "via": answer.via.name(),
            "at": now,
            "note": answer.note,
        },
    });
    say(ALERT_ACKNOWLEDGED, log, (tenant, alert), answer, (now, data)).await
}

async fn say(
    kind: &str,
    log: &Log,
    (tenant, alert): (&str, &Alert),
    answer: &Answer<'_>,
    (now, data): (DateTime<Utc>, Value),
) -> Result<(), AppendError> {
    let stream = (tenant, &*alert.patient_id);
    let event = Event::non_reading(kind, stream, answer.source(), now, data.to_string());
    log.append(log.shard_of(tenant, &alert.patient_id), &[event]).await?;
    Ok(())
}
