//! Fan-out: the consumer that makes a delivery row for every alert event and every
//! endpoint that wants it.
//!
//! Guarantees one row per event and endpoint, made in the transaction that moves
//! the checkpoint. Does not send: the deliverer does, when it hears the bell or by
//! its own timer.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Bell;
use crate::consumer::{Consumer, ConsumerError, Follows};
use crate::event::{AlertData, AlertState, Priority, Recorded, as_people_write};
use crate::log::{Window, read_happenings};

/// Alert events have an index of their own, so a window may be large.
const WINDOW_POSITIONS_MAX: i64 = 50_000;

/// The body of a webhook. Wire format, version 1.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    r#type: &'a str,
    timestamp: DateTime<Utc>,
    patient_id: &'a str,
    event: &'a str,
    vital: &'a str,
    #[serde(serialize_with = "as_people_write")]
    value: f64,
    unit: &'a str,
    alert_id: Uuid,
    state: AlertState,
    rule: &'a str,
    rule_version: u32,
    priority: Priority,
    since: DateTime<Utc>,
    measured_at: DateTime<Utc>,
    device_id: &'a str,
    #[serde(rename = "_links")]
    links: Links,
}

#[derive(Serialize)]
struct Links {
    alert: String,
    ack: String,
    patient: String,
}

/// The worker.
pub struct Fanout {
    bell: Bell,
    public_url: String,
}

impl Fanout {
    /// `public_url` is put before the links in a body; empty leaves them relative.
    pub fn new(bell: Bell, public_url: &str) -> Fanout {
        Fanout { bell, public_url: public_url.trim_end_matches('/').to_owned() }
    }

    fn body(&self, recorded: &Recorded, alert: &AlertData) -> Result<String, serde_json::Error> {
        let event = &recorded.event;
        let api = format!("{}/api/v1", self.public_url);
        serde_json::to_string(&Body {
            r#type: &event.kind,
            timestamp: recorded.recorded_at,
            patient_id: &event.patient_id,
            event: &alert.event,
            vital: alert.vital.name(),
            value: alert.value,
            unit: &alert.unit,
            alert_id: alert.alert_id,
            state: alert.state,
            rule: &alert.rule,
            rule_version: alert.rule_version,
            priority: alert.priority,
            since: alert.since,
            measured_at: alert.measured_at,
            device_id: &alert.device_id,
            links: Links {
                alert: format!("{api}/alerts/{}", alert.alert_id),
                ack: format!("{api}/alerts/{}/ack", alert.alert_id),
                patient: format!("{api}/patients/{}", event.patient_id),
            },
        })
    }
}

/// The same for an alert's state whatever the endpoint, the attempt or the replay.
fn webhook_id(alert: &AlertData) -> String {
    let id = Uuid::new_v5(&alert.alert_id, alert.state.name().as_bytes());
    format!("msg_{}", id.simple())
}

impl Consumer for Fanout {
    /// How many rows were made.
    type Done = u64;

    fn name(&self) -> &str {
        "webhook-fanout"
    }

    fn window_positions_max(&self) -> i64 {
        WINDOW_POSITIONS_MAX
    }

    fn follows(&self) -> Follows {
        Follows::Happenings
    }

    fn pace(&self) -> Duration {
        Duration::ZERO
    }

    async fn act(&self, tx: &mut PgConnection, window: &Window) -> Result<u64, ConsumerError> {
        let happenings = read_happenings(tx, window).await?;
        let mut alerts = Vec::new();
        for recorded in &happenings {
            let unreadable = |source| ConsumerError::Event {
                shard: recorded.shard,
                position: recorded.position,
                source,
            };
            if let Some(alert) = recorded.event.alert().map_err(unreadable)? {
                let body = self.body(recorded, &alert).map_err(unreadable)?;
                alerts.push((recorded, alert, body));
            }
        }
        if alerts.is_empty() {
            return Ok(0);
        }
        let inserted = sqlx::query(include_str!("insert_deliveries.sql"))
            .bind(window.shard)
            .bind(alerts.iter().map(|(r, _, _)| r.position).collect::<Vec<_>>())
            .bind(alerts.iter().map(|(r, _, _)| &*r.event.tenant).collect::<Vec<_>>())
            .bind(alerts.iter().map(|(_, a, _)| webhook_id(a)).collect::<Vec<_>>())
            .bind(alerts.iter().map(|(r, _, _)| &*r.event.kind).collect::<Vec<_>>())
            .bind(alerts.iter().map(|(_, _, body)| &**body).collect::<Vec<_>>())
            .bind(alerts.iter().map(|(r, _, _)| r.recorded_at).collect::<Vec<_>>())
            .bind(alerts.iter().map(|(_, a, _)| a.state != AlertState::Missed).collect::<Vec<_>>())
            .execute(tx)
            .await?;
        Ok(inserted.rows_affected())
    }

    fn committed(&self, _window: &Window, made: u64) {
        if made > 0 {
            self.bell.ring();
        }
    }
}
