//! Server-Sent Events: the log as it grows, and a patient's past as it was.
//!
//! Guarantees that each event of `/stream` carries the place from which it can be
//! resumed without loss, and a sign of life at least every few seconds. A client
//! that does not read is held by its own connection's window; it never holds the
//! server's memory.

use std::convert::Infallible;
use std::time::Duration;

use async_stream::stream;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::auth::Caller;
use super::extract::{Params, PatientId, Time};
use super::problem::Problem;
use super::wire;
use crate::event::Recorded;
use crate::log::Log;
use crate::query::live::{Live, Place, SubscribeError};
use crate::query::replay::{Range, replay as replayed};
use crate::query::{END_OF_TIME, state as states};

/// The longest silence of a stream.
const KEEP_ALIVE_MS: u64 = 5_000;
/// The slowest replay, and the fastest that is still timed; beyond it, ask for `max`.
const SPEED: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

/// What these routes stand on.
#[derive(Clone)]
pub struct Feed {
    pub(super) live: Live,
    pub(super) log: Log,
    pub(super) stop: CancellationToken,
}

#[derive(Deserialize)]
pub struct LiveParams {
    types: Option<String>,
}

/// `GET /stream`
pub async fn live(
    State(feed): State<Feed>,
    caller: Caller,
    Params(params): Params<LiveParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may("vitals:read")?;
    let types = types(params.types.as_deref())?;
    let resume = headers
        .get("last-event-id")
        .map(|value| Place::parse(value.to_str().unwrap_or_default(), feed.live.shards()))
        .transpose()
        .map_err(|error| Problem::unreadable("invalid_last_event_id", error.to_string()))?;
    let (start, events) = feed.live.subscribe(&caller.tenant, resume).await.map_err(refuse)?;
    Ok(sse(stream! {
        let mut events = std::pin::pin!(events);
        // So that a client which is cut off before its first event can resume.
        yield Event::default().id(start.to_string()).comment("from here");
        let mut last: Option<Place> = None;
        let mut silent_until = silence();
        loop {
            // Counted from what was sent, not from what came: others may be busy.
            match tokio::time::timeout_at(silent_until, events.next()).await {
                Err(_) => {
                    silent_until = silence();
                    // The id alone: it moves the place of who sees little of much.
                    yield match last.take() {
                        Some(place) => Event::default().id(place.to_string()).comment("alive"),
                        None => Event::default().comment("alive"),
                    };
                }
                Ok(Some(Ok((place, recorded)))) => {
                    match shown(&caller, types, &recorded) {
                        Some((name, body)) => {
                            last = None;
                            silent_until = silence();
                            yield Event::default().event(name).id(place.to_string()).data(body.to_string());
                        }
                        None => last = Some(place),
                    }
                }
                Ok(Some(Err(error))) => {
                    // The client comes back from its last place.
                    tracing::error!(%error, "a stream ended because the log cannot be read");
                    break;
                }
                Ok(None) => break,
            }
        }
    }))
}

fn refuse(error: SubscribeError) -> Problem {
    match error {
        SubscribeError::Database(error) => error.into(),
        SubscribeError::Place(error) => {
            Problem::unreadable("invalid_last_event_id", error.to_string())
        }
        SubscribeError::Full => Problem::unavailable("too_many_streams", error.to_string()),
    }
}

fn silence() -> Instant {
    Instant::now() + Duration::from_millis(KEEP_ALIVE_MS)
}

/// Which kinds of event are wanted.
#[derive(Clone, Copy)]
struct Types {
    readings: bool,
    alerts: bool,
}

fn types(text: Option<&str>) -> Result<Types, Problem> {
    let mut types = Types { readings: false, alerts: false };
    for name in text.unwrap_or("reading,alert").split(',') {
        match name {
            "reading" => types.readings = true,
            "alert" => types.alerts = true,
            _ => {
                let detail = "types is reading, alert or both with a comma between them";
                return Err(Problem::unreadable("invalid_types", detail));
            }
        }
    }
    Ok(types)
}

/// What this caller sees of an event.
fn shown(
    caller: &Caller,
    types: Types,
    recorded: &Recorded,
) -> Option<(&'static str, serde_json::Value)> {
    let event = &recorded.event;
    if event.tenant != caller.tenant || caller.may_see(&event.patient_id).is_err() {
        return None;
    }
    let (name, body) = wire::event(recorded)?;
    let wanted = if name == "reading" { types.readings } else { types.alerts };
    let device = body.get("deviceId").and_then(|id| id.as_str()).unwrap_or_default();
    (wanted && caller.sees_device(device)).then_some((name, body))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayParams {
    from: Option<Time>,
    to: Option<Time>,
    known_at: Option<Time>,
    speed: Option<String>,
}

/// `GET /patients/{patient_id}/replay`
pub async fn replay(
    State(feed): State<Feed>,
    caller: Caller,
    PatientId(patient_id): PatientId,
    Params(params): Params<ReplayParams>,
) -> Result<Response, Problem> {
    caller.may("vitals:read")?;
    caller.may_see(&patient_id)?;
    let speed = speed(params.speed.as_deref())?;
    if !states::is_known(&feed.log, &caller.tenant, &patient_id).await? {
        return Err(Problem::not_found("patient"));
    }
    let range = Range {
        from: params.from.map_or(DateTime::UNIX_EPOCH, |t| t.0),
        to: params.to.map_or(END_OF_TIME, |t| t.0),
        known_at: params.known_at.map(|t| t.0),
    };
    let events = replayed(feed.log.clone(), caller.tenant.to_string(), patient_id, range);
    Ok(sse(stream! {
        let mut events = std::pin::pin!(events);
        // When the first event was sent: all others are due by that, so that the time
        // it takes to send them does not add up.
        let mut first: Option<(DateTime<Utc>, Instant)> = None;
        let all = Types { readings: true, alerts: true };
        while let Some(next) = events.next().await {
            let recorded = match next {
                Ok(recorded) => recorded,
                Err(error) => {
                    tracing::error!(%error, "a replay ended because the log cannot be read");
                    return;
                }
            };
            let Some((name, body)) = shown(&caller, all, &recorded) else { continue };
            let at = recorded.event.occurred_at;
            let (began, started) = *first.get_or_insert((at, Instant::now()));
            if let Some(speed) = speed {
                let due = started + (at - began).to_std().unwrap_or_default().div_f64(speed);
                while Instant::now() < due {
                    tokio::select! {
                        () = feed.stop.cancelled() => return,
                        () = tokio::time::sleep_until(due.min(silence())) => {}
                    }
                    if Instant::now() < due {
                        yield Event::default().comment("alive");
                    }
                }
            }
            if feed.stop.is_cancelled() {
                return;
            }
            let id = format!("{}-{}", at.timestamp_micros(), recorded.position);
            yield Event::default().event(name).id(id).data(body.to_string());
        }
        yield Event::default().event("end").data("{}");
    }))
}

/// Times real time; `None` is as fast as it goes.
fn speed(text: Option<&str>) -> Result<Option<f64>, Problem> {
    match text {
        None => Ok(Some(1.0)),
        Some("max") => Ok(None),
        Some(text) => match text.parse::<f64>() {
            Ok(speed) if SPEED.contains(&speed) => Ok(Some(speed)),
            _ => {
                let detail = format!(
                    "speed is max, or a number within {} and {}",
                    SPEED.start(),
                    SPEED.end()
                );
                Err(Problem::unreadable("invalid_speed", detail))
            }
        },
    }
}

fn sse(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let mut response = Sse::new(events.map(Ok::<_, Infallible>)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer would hold an alarm back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
