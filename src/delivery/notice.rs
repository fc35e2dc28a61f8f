//! Notices: what is said about endpoints themselves, so that people know that a page
//! may not have arrived.
//!
//! Guarantees that a notice has the same `webhook-id` wherever it goes, and that it is not
//! sent to the endpoint that it is about. Goes to the tenant's fallbacks and to every endpoint that
//! names the event; `*` means alerts that page, and these are none.

use serde::Deserialize;
use uuid::Uuid;

use super::schedule::Schedule;
use crate::event::{ENDPOINT_DISABLED, ENDPOINT_REACHABLE, ENDPOINT_UNREACHABLE, Recorded};
use crate::wire::{NoticeBody, NoticeBodyLinks};

/// What the event holds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    endpoint_id: Uuid,
    reason: Option<String>,
}

/// A notice, ready to be sent.
pub(super) struct Notice {
    pub about: Uuid,
    pub webhook_id: String,
    pub body: String,
    pub schedule: Schedule,
}

/// The notice of an event, if it is one about an endpoint. `api` is put before the links.
pub(super) fn notice(recorded: &Recorded, api: &str) -> Result<Option<Notice>, serde_json::Error> {
    let event = &recorded.event;
    let schedule = match event.kind.as_str() {
        // Needs a person now.
        ENDPOINT_DISABLED | ENDPOINT_UNREACHABLE => Schedule::Alarm,
        ENDPOINT_REACHABLE => Schedule::Record,
        _ => return Ok(None),
    };
    let data: Data = serde_json::from_str(event.data.as_deref().unwrap_or_default())?;
    let webhook = format!("{api}/webhooks/{}", data.endpoint_id);
    let body = serde_json::to_string(&NoticeBody {
        r#type: &event.kind,
        timestamp: recorded.recorded_at.into(),
        event: &event.kind,
        endpoint_id: data.endpoint_id,
        reason: data.reason.as_deref(),
        links: NoticeBodyLinks { deliveries: format!("{webhook}/deliveries"), webhook },
    })?;
    // What happened and when; never its place in the log, which another may have after a
    // restore.
    let happened = format!("{}/{}", event.kind, event.occurred_at.timestamp_micros());
    let id = Uuid::new_v5(&data.endpoint_id, happened.as_bytes());
    let webhook_id = format!("msg_{}", id.simple());
    Ok(Some(Notice { about: data.endpoint_id, webhook_id, body, schedule }))
}
