//! `GET /stream`: the log as it grows, by Server-Sent Events.
//!
//! Guarantees that each event carries the place from which it can be resumed without
//! loss, on any instance, and a sign of life at least every few seconds. An event is
//! rendered once, however many listen. A client that does not read is held by its own
//! connection's window; it never holds the server's memory. Nothing is sent to whose token
//! has expired.

use std::convert::Infallible;
use std::future::ready;
use std::time::Duration;

use async_stream::stream;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::cursor;
use super::extract::Params;
use super::problem::Problem;
use crate::auth::{Caller, Scope};
use crate::clock::Clock;
use crate::event::Recorded;
use crate::limits::shares::{Share, ShareHolder};
use crate::log::Log;
use crate::query::live::{Heard, Live, Rendered, StreamItem, StreamPosition, SubscribeError};
use crate::query::wards::Followed;
use crate::wire::{LogRestored, RestoredPlace, StreamEvent};

/// The longest silence of a stream.
const KEEP_ALIVE_MS: u64 = 5_000;

/// What this route stands on.
#[derive(Clone)]
pub struct Feed {
    pub(super) live: Live,
    /// Where patients lie.
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) places: Share,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveParams {
    types: Option<String>,
    last_event_id: Option<String>,
}

/// The place to go on from: the header's, which moves on where a browser comes back by itself;
/// else the address's.
pub fn last_event_id<'a>(headers: &'a HeaderMap, param: Option<&'a str>) -> Option<&'a str> {
    let header = headers.get("last-event-id");
    header.map(|value| value.to_str().unwrap_or_default()).or(param)
}

/// `GET /stream`
pub async fn live(
    State(feed): State<Feed>,
    caller: Caller,
    Params(params): Params<LiveParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may(Scope::VitalsRead)?;
    let types = types(params.types.as_deref())?;
    let resume = last_event_id(&headers, params.last_event_id.as_deref())
        .map(|id| StreamPosition::parse(id, feed.live.shards()))
        .transpose()
        .map_err(|error| Problem::unreadable("invalid_last_event_id", error.to_string()))?;
    let resumes = resume.is_some();
    let place = feed.places.lend(&ShareHolder::of(&caller), 1)?;
    let (start, events) = feed.live.subscribe(&caller.tenant, resume).await.map_err(refuse)?;
    let began = (!resumes).then_some(&*start.positions);
    let mut wards = match caller.wards.of(Scope::VitalsRead) {
        Some(wards) => Some(Followed::begin(feed.log, wards, began).await?),
        None => None,
    };
    let (asked_by, clock) = (caller.clone(), feed.clock);
    let events = stream! {
        let _place = place;
        let mut events = std::pin::pin!(events);
        // So that a client which is cut off before its first event can resume.
        yield Event::default().id(start.to_string()).comment("from here");
        let mut last: Option<StreamPosition> = None;
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
                Ok(Some(Ok(StreamItem::Restored(place)))) => {
                    yield restored(place.as_ref(), start.incarnation);
                    break;
                }
                Ok(Some(Ok(StreamItem::Event(place, heard)))) => {
                    let theirs = match &mut wards {
                        Some(wards) => wards.has(&heard.recorded).await,
                        None => Ok(true),
                    };
                    let theirs = match theirs {
                        Ok(theirs) => theirs,
                        Err(error) => {
                            tracing::error!(%error, "a stream ended: nobody says where a patient lies");
                            break;
                        }
                    };
                    match shown(&caller, types, &heard).filter(|_| theirs) {
                        Some(shown) => {
                            last = None;
                            silent_until = silence();
                            yield Event::default().event(shown.name).id(place.to_string()).data(&shown.text);
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
    };
    Ok(sse(asked_by, clock, events))
}

/// The end of a history, with the place to go on from: who comes back by itself misses
/// nothing, or, where no place is known, begins anew.
fn restored(place: Option<&StreamPosition>, before: i64) -> Event {
    let id = place.map(StreamPosition::to_string);
    let incarnation = place.map(|place| place.incarnation);
    let place = Some(RestoredPlace { incarnation, last_event_id: id.clone() });
    let event = Event::default().event("log_restored").id(id.unwrap_or_default());
    event.data(data(&LogRestored { before, place }))
}

/// What an event says.
pub fn data(of: &impl Serialize) -> String {
    serde_json::to_string(of).unwrap_or_default()
}

fn refuse(error: SubscribeError) -> Problem {
    match error {
        SubscribeError::Database(error) => error.into(),
        SubscribeError::Position(error) => {
            Problem::unreadable("invalid_last_event_id", error.to_string())
        }
        SubscribeError::Archived(span) => {
            let detail = format!(
                "{span} was archived since, and has events after this place: leave Last-Event-ID \
                 out to start with what comes next"
            );
            Problem::new(StatusCode::GONE, "month_archived", detail)
                .with(|document| document.month = Some(span.to_string()))
        }
        SubscribeError::Restored(place) => {
            let place = place.map(|place| place.to_string());
            let detail = match &place {
                Some(place) => format!(
                    "the log was restored since, and this place is of a history that has ended: go on \
                     with Last-Event-ID: {place}, and nothing that is in the log is missed"
                ),
                None => {
                    "the log was restored since, and this place is of a history that it does not \
                         know: leave Last-Event-ID out, and read the lists again"
                        .to_owned()
                }
            };
            cursor::log_restored(detail, "/api/v1/stream")
                .with(|document| document.last_event_id = Some(place))
        }
        SubscribeError::Full => Problem::unavailable("too_many_streams", error.to_string()),
    }
}

/// When a sign of life is due.
pub fn silence() -> Instant {
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
fn shown<'a>(caller: &Caller, types: Types, heard: &'a Heard) -> Option<&'a Rendered> {
    let event = &heard.recorded.event;
    if event.tenant != caller.tenant || caller.may_see(&event.patient_id).is_err() {
        return None;
    }
    let rendered = heard.rendered(render)?;
    // Whoever follows readings has to hear which of them no longer count.
    let wanted = if rendered.name == "alert" { types.alerts } else { types.readings };
    (wanted && caller.sees_device(&rendered.device_id)).then_some(rendered)
}

/// An event as all who listen are sent it.
pub fn render(recorded: &Recorded) -> Option<Rendered> {
    let event = StreamEvent::of(recorded).unwrap_or_else(|error| {
        let (shard, position) = (recorded.shard, recorded.position);
        tracing::error!(%error, shard, position, "an event cannot be read, and is not sent");
        None
    })?;
    let device_id = event.device_id().to_owned();
    Some(Rendered { name: event.name(), device_id, text: data(&event) })
}

/// The answer that events are sent by, until the token of who asked has expired: then they
/// come back from their last place, and are told. Signs of life count, so that it ends soon.
pub fn sse(
    caller: Caller,
    clock: Clock,
    events: impl Stream<Item = Event> + Send + 'static,
) -> Response {
    let events = events.take_while(move |_| ready(caller.may_still(clock.now()).is_ok()));
    undelayed(Sse::new(events.map(Ok::<_, Infallible>)).into_response())
}

/// The same, of events that are written already, many at a time.
pub fn sse_text(
    caller: Caller,
    clock: Clock,
    parts: impl Stream<Item = String> + Send + 'static,
) -> Response {
    let parts = parts.take_while(move |_| ready(caller.may_still(clock.now()).is_ok()));
    let mut response = Response::new(Body::from_stream(parts.map(Ok::<_, Infallible>)));
    let media_type = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    undelayed(response)
}

fn undelayed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer would hold an alarm back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
