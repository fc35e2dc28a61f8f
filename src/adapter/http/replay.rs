//! `GET /patients/{patient_id}/replay`: a patient's past as it was, by Server-Sent Events.
//!
//! Guarantees that each event carries the place from which it can be resumed without loss
//! or repeat, and constant memory: a page of events, for each replay that has a place.
//! A client that takes nothing for too long is told that it lags and let go. Does not
//! catch up by hurrying: who lags comes back with `Last-Event-ID`.

use std::fmt::Write;
use std::io;
use std::time::Duration;

use async_stream::stream;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::response::sse::Event;
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cursor;
use super::extract::{Params, PatientId};
use super::problem::Problem;
use super::stream::{data, last_event_id, render, silence, sse, sse_text};
use crate::auth::{Caller, Scope};
use crate::clock::Clock;
use crate::limits::shares::{Permit, Share, ShareHolder};
use crate::log::Log;
use crate::query::bulk;
use crate::query::export::ExportRow;
use crate::query::lines::NdjsonWriter;
use crate::query::replay::{ReplayedRange, check, replay as replayed};
use crate::query::wards::Stay;
use crate::query::{END_OF_TIME, state as states};
use crate::wire::{End, Lagging, LogRestored, Time};

/// The slowest replay, and the fastest that is still timed; beyond it, ask for `max`.
const SPEED: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;
/// How long a client may take nothing before it is let go.
const STALL_MS_MAX: u64 = 10_000;
/// Text that is sent as one piece: who takes it slowly takes one all the same before they stall.
const PART_BYTES: usize = 64 * 1024;

/// What this route stands on.
#[derive(Clone)]
pub struct Past {
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
    pub(super) places: Share,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayParams {
    from: Option<Time>,
    to: Option<Time>,
    known_at: Option<Time>,
    speed: Option<String>,
    last_event_id: Option<String>,
}

/// `GET /patients/{patient_id}/replay`
pub async fn replay(
    State(past): State<Past>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    Params(params): Params<ReplayParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may(Scope::VitalsRead)?;
    caller.may_see(&patient_id)?;
    let speed = speed(params.speed.as_deref())?;
    let link = format!("/api/v1/patients/{patient_id}/replay");
    // Of the whole replay: one that goes on over a restore is refused when it is resumed.
    let incarnation = past.log.incarnations().number();
    let place = |id: &str| place_of(Some(id), incarnation, &link);
    let range = ReplayedRange {
        from: params.from.map_or(DateTime::UNIX_EPOCH, |t| t.0),
        to: params.to.map_or(END_OF_TIME, |t| t.0),
        known_at: params.known_at.map(|t| t.0),
        after: last_event_id(&headers, params.last_event_id.as_deref()).map(place).transpose()?,
    };
    if !states::is_known(&past.log, &caller.tenant, &patient_id).await? {
        return Err(Problem::not_found("patient"));
    }
    check(&past.log, &caller.tenant, &patient_id, range.clone()).await?;
    let place = past.places.lend(&ShareHolder::of(&caller), 1)?;
    if speed.is_none() {
        return at_once(past, caller, patient_id, range, incarnation, place).await;
    }
    let stay = Stay::of(&past.log, &caller.tenant, &patient_id, caller.wards.of(Scope::VitalsRead));
    let events = replayed(past.log.clone(), caller.tenant.to_string(), patient_id, range);
    let (asked_by, clock) = (caller.clone(), past.clock.clone());
    let events = stream! {
        let _place = place;
        let mut events = std::pin::pin!(events);
        let mut pace = Pace::new(speed);
        while let Some(next) = events.next().await {
            let recorded = match next {
                Ok(recorded) => recorded,
                Err(error) => {
                    tracing::error!(%error, "a replay ended because the log cannot be read");
                    return;
                }
            };
            // Asked after the reading: what was read may be of another history.
            if past.log.incarnations().number() != incarnation {
                let said = LogRestored { before: incarnation, place: None };
                yield Event::default().event("log_restored").data(data(&said));
                return;
            }
            let Some(shown) = render(&recorded) else { continue };
            if !caller.sees_device(&shown.device_id) {
                continue;
            }
            let due = pace.due(recorded.event.occurred_at);
            while let Some(due) = due.filter(|due| Instant::now() < *due) {
                tokio::select! {
                    () = past.stop.cancelled() => return,
                    () = tokio::time::sleep_until(due.min(silence())) => {}
                }
                if Instant::now() < due {
                    yield Event::default().comment("alive");
                }
            }
            if past.stop.is_cancelled() {
                return;
            }
            let at = recorded.event.occurred_at.timestamp_micros();
            let id = format!("{incarnation}.{at}-{}", recorded.position);
            yield Event::default().event(shown.name).id(id).data(shown.text);
        }
        yield Event::default().event("end").data(data(&End {}));
    };
    let stall_max = Duration::from_millis(STALL_MS_MAX);
    Ok(sse(asked_by, clock, until_stalled(while_there(events, stay), stall_max, lagging)))
}

/// The same events as fast as they are taken, many in one piece of text.
async fn at_once(
    past: Past,
    caller: Caller,
    patient_id: String,
    mut range: ReplayedRange,
    incarnation: i64,
    place: Permit,
) -> Result<Response, Problem> {
    let (log, tenant) = (past.log.clone(), caller.tenant.to_string());
    let shard = log.shard_of(&tenant, &patient_id);
    if let Some(known_at) = range.known_at {
        range.known_at = Some(log.settle(shard, known_at).await?);
    }
    let stay = Stay::of(&log, &tenant, &patient_id, caller.wards.of(Scope::VitalsRead));
    let (asked_by, clock) = (caller.clone(), past.clock.clone());
    let mut lines = NdjsonWriter::new(shard, &tenant, &patient_id);
    let pages = bulk::events(past.log.clone(), tenant, patient_id, range);
    let parts = stream! {
        let _place = place;
        let mut pages = std::pin::pin!(pages);
        while let Some(page) = pages.next().await {
            // Asked after the reading: what was read may be of another history.
            if past.log.incarnations().number() != incarnation {
                let said = LogRestored { before: incarnation, place: None };
                yield format!("event: log_restored\ndata: {}\n\n", data(&said));
                return;
            }
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(%error, "a replay ended because the log cannot be read");
                    return;
                }
            };
            let mut text = String::new();
            for row in page.rows() {
                let told = row.map_err(io::Error::other).and_then(|row| {
                    event_text(&mut text, &caller, &mut lines, incarnation, &row)
                });
                if let Err(error) = told {
                    tracing::error!(%error, "a replay ended because the log cannot be read");
                    return;
                }
                if text.len() >= PART_BYTES {
                    yield std::mem::take(&mut text);
                    if past.stop.is_cancelled() {
                        return;
                    }
                }
            }
            yield text;
        }
        yield format!("event: end\ndata: {}\n\n", data(&End {}));
    };
    let stalled = |lag: &Lagging| format!("event: lagging\ndata: {}\n\n", data(lag));
    let parts =
        until_stalled(while_there(parts, stay), Duration::from_millis(STALL_MS_MAX), stalled);
    Ok(sse_text(asked_by, clock, parts))
}

/// An event as its lines in a stream, if this caller sees it.
fn event_text(
    to: &mut String,
    caller: &Caller,
    lines: &mut NdjsonWriter,
    incarnation: i64,
    row: &ExportRow<'_>,
) -> io::Result<()> {
    let (at, position) = (row.occurred_at, row.position);
    let line = lines.event(row).unwrap_or_else(|error| {
        tracing::error!(%error, position, "an event cannot be read, and is not sent");
        None
    });
    let Some(line) = line else { return Ok(()) };
    if !caller.sees_device(&line.device_id) {
        return Ok(());
    }
    let (name, text) = (line.name, line.text);
    write!(to, "event: {name}\nid: {incarnation}.{at}-{position}\ndata: {text}\n\n")
        .map_err(io::Error::other)
}

/// The same events, as long as the patient lies where who listens may see them.
pub(super) fn while_there<T>(
    events: impl Stream<Item = T>,
    mut stay: Stay,
) -> impl Stream<Item = T> {
    stream! {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match stay.lasts().await {
                Ok(true) => yield event,
                Ok(false) => return,
                Err(error) => {
                    tracing::error!(%error, "an answer ended: nobody says where the patient lies");
                    return;
                }
            }
        }
    }
}

/// The same events, until the client takes nothing for too long: only then is a body not
/// asked for more. The ids that it has tell it where it was.
fn until_stalled<T>(
    events: impl Stream<Item = T>,
    stall_max: Duration,
    told: impl Fn(&Lagging) -> T,
) -> impl Stream<Item = T> {
    stream! {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            let handed = Instant::now();
            yield event;
            let took = handed.elapsed();
            if took >= stall_max {
                yield told(&Lagging { stalled_seconds: took.as_secs() });
                return;
            }
        }
    }
}

fn lagging(lag: &Lagging) -> Event {
    Event::default().event("lagging").data(data(lag))
}

/// When events are due.
struct Pace {
    /// Times real time; `None` is as fast as it goes.
    speed: Option<f64>,
    /// When the first event was sent: all others are due by that, so that the time it
    /// takes to send them does not add up.
    first: Option<(DateTime<Utc>, Instant)>,
}

impl Pace {
    fn new(speed: Option<f64>) -> Pace {
        Pace { speed, first: None }
    }

    fn due(&mut self, at: DateTime<Utc>) -> Option<Instant> {
        let (began, started) = *self.first.get_or_insert_with(|| (at, Instant::now()));
        let since = (at - began).to_std().unwrap_or_default();
        self.speed.map(|speed| started + since.div_f64(speed))
    }
}

/// The place after an event: what its id says.
fn place_of(
    id: Option<&str>,
    incarnation: i64,
    link: &str,
) -> Result<(DateTime<Utc>, i64), Problem> {
    let of = id.and_then(|id| id.split_once('.'));
    let of = of.and_then(|(of, place)| Some((of.parse::<i64>().ok()?, place)));
    if of.is_some_and(|(of, _)| of != incarnation) {
        let detail = "the log was restored since: leave Last-Event-ID out to replay it as it is";
        return Err(cursor::log_restored(detail, link));
    }
    let parts = of.and_then(|(_, place)| place.split_once('-'));
    let place = parts.and_then(|(micros, position)| {
        let at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
        let known = (DateTime::UNIX_EPOCH..=END_OF_TIME).contains(&at);
        Some((at, position.parse().ok()?)).filter(|_| known)
    });
    place.ok_or_else(|| {
        let detail = "not a place in a replay: leave Last-Event-ID out to start at its beginning";
        Problem::unreadable("invalid_last_event_id", detail)
    })
}

/// Times real time; `None` is as fast as it goes.
fn speed(text: Option<&str>) -> Result<Option<f64>, Problem> {
    match text {
        None => Ok(Some(1.0)),
        Some("max") => Ok(None),
        Some(text) => match text.parse::<f64>() {
            Ok(speed) if SPEED.contains(&speed) => Ok(Some(speed)),
            _ => {
                let (least, most) = (SPEED.start(), SPEED.end());
                let detail = format!("speed is max, or a number within {least} and {most}");
                Err(Problem::unreadable("invalid_speed", detail))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_takes_nothing_for_too_long_is_told_and_let_go() {
        let stall_max = Duration::from_millis(40);
        let events = || futures_util::stream::iter((0..5).map(|_| Event::default().data("x")));
        let mut stalled = std::pin::pin!(until_stalled(events(), stall_max, lagging));
        assert!(stalled.next().await.is_some());
        assert!(stalled.next().await.is_some());
        // Time is what this is about: nothing else would ever come.
        let nothing = tokio::time::timeout(stall_max, std::future::pending::<()>());
        assert!(nothing.await.is_err());
        let told = stalled.next().await.unwrap();
        assert!(format!("{told:?}").contains("lagging"), "{told:?}");
        assert!(stalled.next().await.is_none());
        // Who keeps taking gets all.
        assert_eq!(until_stalled(events(), stall_max, lagging).count().await, 5);
    }
}
