//! Fan-out: the consumer that makes a delivery row for every alert event and every
//! endpoint that wants it.
//!
//! Guarantees one row per event and endpoint, made in the transaction that moves
//! the checkpoint. What the process has capacity for is claimed by being made, and put into
//! the queue after the commit: an alert waits for no second statement. Does not send: the
//! deliverer does. What is lost between commit and queue comes back when its lease ends.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::ack::AckLinks;
use super::claim::{LEASE_SECONDS, Made};
use super::notice::notice;
use super::queue::DeliveryQueue;
use super::schedule::Schedule;
use crate::consumer::{Consumer, ConsumerError, Follows};
use crate::event::{AlertData, AlertEventKind, Recorded};
use crate::log::{Window, read_non_readings};
use crate::trace::{self, Moment, Span, SpanKind, TraceContext};
use crate::wire::{AlertBody, AlertBodyLinks, AlertStub, Number};

/// Alert events have an index of their own, so a window may be large; the first of its
/// alerts waits for the last.
const WINDOW_POSITIONS_MAX: i64 = 10_000;

/// The worker.
pub struct Fanout {
    queue: DeliveryQueue,
    links: AckLinks,
    public_url: String,
}

/// Something to be told, as `insert_deliveries.sql` takes it.
struct Announcement<'a> {
    recorded: &'a Recorded,
    webhook_id: String,
    full: String,
    stub: String,
    /// Whether `*` means it.
    pages: bool,
    schedule: Schedule,
    alert: Option<AlertData>,
    /// The endpoint that it is about.
    about: Option<Uuid>,
}

impl Announcement<'_> {
    fn priority(&self) -> Option<&'static str> {
        self.alert.as_ref().map(|alert| alert.priority.name())
    }

    fn trace(&self) -> Option<TraceContext> {
        self.alert.as_ref()?.trace()
    }

    fn clears(&self) -> bool {
        self.alert.as_ref().is_some_and(|alert| {
            matches!(alert.state, AlertEventKind::Cleared | AlertEventKind::Retracted)
        })
    }
}

impl Fanout {
    /// `public_url` is put before the links in a body; empty leaves them relative.
    pub fn new(queue: DeliveryQueue, links: AckLinks, public_url: &str) -> Fanout {
        Fanout { queue, links, public_url: public_url.trim_end_matches('/').to_owned() }
    }

    /// What an event means to endpoints, if anything.
    fn announcement<'a>(
        &self,
        recorded: &'a Recorded,
    ) -> Result<Option<Announcement<'a>>, serde_json::Error> {
        if let Some(alert) = recorded.event.alert()? {
            // What a silence holds back is on the record and is not delivered.
            if alert.silenced_by.is_some() {
                return Ok(None);
            }
            let pages = pages(&alert);
            let (full, stub) = self.bodies(recorded, &alert)?;
            return Ok(Some(Announcement {
                recorded,
                webhook_id: webhook_id(&alert),
                full,
                stub,
                pages,
                schedule: if pages { Schedule::Alarm } else { Schedule::Record },
                alert: Some(alert),
                about: None,
            }));
        }
        let notice = notice(recorded, &format!("{}/api/v1", self.public_url))?;
        Ok(notice.map(|notice| Announcement {
            recorded,
            webhook_id: notice.webhook_id,
            // Nothing in it is about a patient.
            stub: notice.body.clone(),
            full: notice.body,
            pages: false,
            schedule: notice.schedule,
            alert: None,
            about: Some(notice.about),
        }))
    }

    /// The body, full and stub. Nothing in it depends on when it is rendered.
    fn bodies(
        &self,
        recorded: &Recorded,
        alert: &AlertData,
    ) -> Result<(String, String), serde_json::Error> {
        let event = &recorded.event;
        let api = format!("{}/api/v1", self.public_url);
        let asked = (&*event.tenant, alert.alert_id, recorded.recorded_at);
        let links = |link: String, patient| AlertBodyLinks {
            alert: format!("{api}/alerts/{}", alert.alert_id),
            ack: format!("{api}/alerts/{}/ack?{link}", alert.alert_id),
            patient,
        };
        let full = serde_json::to_string(&AlertBody {
            r#type: &event.kind,
            timestamp: recorded.recorded_at.into(),
            patient_id: (&*event.patient_id).into(),
            event: &alert.event,
            vital: alert.vital,
            value: Number(alert.value),
            unit: &alert.unit,
            alert_id: alert.alert_id,
            state: alert.state,
            rule: &alert.rule,
            rule_version: alert.rule_version,
            priority: alert.priority,
            since: alert.since.into(),
            measured_at: alert.measured_at.into(),
            device_id: (&*alert.device_id).into(),
            links: links(
                self.links.query(asked.0, asked.1, asked.2),
                Some(format!("{api}/patients/{}", event.patient_id)),
            ),
        })?;
        let stub = serde_json::to_string(&AlertStub {
            r#type: &event.kind,
            timestamp: recorded.recorded_at.into(),
            event: &alert.event,
            alert_id: alert.alert_id,
            state: alert.state,
            priority: alert.priority,
            links: links(self.links.stub_query(asked.0, asked.1, asked.2), None),
        })?;
        Ok((full, stub))
    }
}

/// The same for what is said of an alert whatever the endpoint, the attempt or the replay.
fn webhook_id(alert: &AlertData) -> String {
    let mut said = alert.state.name().to_owned();
    if let Some(nth) = alert.nth {
        // Said again, it is another message.
        said.push_str(&nth.to_string());
    }
    let id = Uuid::new_v5(&alert.alert_id, said.as_bytes());
    format!("msg_{}", id.simple())
}

/// Whether it is for those who take every page. What was missed, and what a correction
/// took back, goes only where it is named.
fn pages(alert: &AlertData) -> bool {
    !matches!(
        alert.state,
        AlertEventKind::Missed | AlertEventKind::Retracted | AlertEventKind::Corrected
    )
}

/// The step of each trace that these belong to: one, whatever it tells. It ends when it is
/// dropped.
fn steps(all: &[Announcement<'_>], shard: i16, began: Moment) -> HashMap<String, Span> {
    let mut steps = HashMap::new();
    for context in all.iter().filter_map(Announcement::trace) {
        let kind = SpanKind::Producer;
        if let Entry::Vacant(step) = steps.entry(context.stored())
            && let Some(mut span) = trace::child(&context, "fan-out", kind, began)
        {
            span.set("vitals.shard", i64::from(shard));
            step.insert(span);
        }
    }
    steps
}

/// What a step leaves behind.
pub struct FannedOut {
    /// The rows that were made.
    made: Vec<Made>,
    _steps: HashMap<String, Span>,
}

impl Consumer for Fanout {
    type Done = FannedOut;

    fn name(&self) -> &str {
        "webhook-fanout"
    }

    fn window_positions_max(&self) -> i64 {
        WINDOW_POSITIONS_MAX
    }

    fn follows(&self) -> Follows {
        Follows::NonReadings
    }

    fn pace(&self) -> Duration {
        Duration::ZERO
    }

    async fn act(
        &self,
        tx: &mut PgConnection,
        window: &Window,
    ) -> Result<FannedOut, ConsumerError> {
        fn column<'a, T: 'a>(
            of: &'a [Announcement<'_>],
            f: impl Fn(&'a Announcement<'_>) -> T + 'a,
        ) -> Vec<T> {
            of.iter().map(f).collect()
        }
        let began = Moment::now();
        let non_readings = read_non_readings(tx, window).await?;
        let mut all = Vec::new();
        for recorded in &non_readings {
            let unreadable = |source| ConsumerError::Event {
                shard: recorded.shard,
                position: recorded.position,
                source,
            };
            all.extend(self.announcement(recorded).map_err(unreadable)?);
        }
        if all.is_empty() {
            return Ok(FannedOut { made: Vec::new(), _steps: HashMap::new() });
        }
        let steps = steps(&all, window.shard, began);
        // As it came, where this process records nothing.
        let followed = |a: &Announcement<'_>| {
            let stored = a.trace()?.stored();
            Some(steps.get(&stored).map_or(stored, |step| step.context().stored()))
        };
        let capacity = self.queue.capacity_for_new();
        let made = sqlx::query_as(include_str!("insert_deliveries.sql"))
            .bind(window.shard)
            .bind(column(&all, |a| a.recorded.position))
            .bind(column(&all, |a| &*a.recorded.event.tenant))
            .bind(column(&all, |a| &*a.webhook_id))
            .bind(column(&all, |a| &*a.recorded.event.kind))
            .bind(column(&all, |a| &*a.full))
            .bind(column(&all, |a| a.recorded.recorded_at))
            .bind(column(&all, |a| a.pages))
            .bind(column(&all, |a| a.alert.as_ref().map(|alert| alert.alert_id)))
            .bind(column(&all, |a| a.priority()))
            .bind(column(&all, |a| a.schedule.name()))
            .bind(column(&all, |a| a.clears()))
            .bind(column(&all, |a| a.about))
            .bind(capacity.endpoints)
            .bind(capacity.each)
            .bind(capacity.others)
            .bind(LEASE_SECONDS)
            .bind(column(&all, |a| &*a.stub))
            .bind(column(&all, followed))
            .fetch_all(tx)
            .await?;
        Ok(FannedOut { made, _steps: steps })
    }

    fn committed(&self, _window: &Window, FannedOut { made, .. }: FannedOut) {
        if !made.is_empty() {
            self.queue.made(made);
        }
    }
}
