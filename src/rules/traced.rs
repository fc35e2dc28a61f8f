//! The rules' part of a trace: from the reading to the alert.
//!
//! Guarantees that an alert goes on with the trace of the reading that brought it about, if that
//! is recorded; and that one which time or a correction brought about begins a trace of its own.
//! It is put on what the rules have said, when they have said it: no rule sees it, so a replay
//! and a trial say the same without it.
//!
//! Does not guarantee that a trace is found: what has been swept, or was lost in a crash of
//! PostgreSQL, is a trace that ends with its append.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use crate::consumer::{ConsumerError, RULES};
use crate::event::Event;
use crate::log::{Window, answered_soon};
use crate::trace::{self, Moment, Span, SpanKind, TraceContext};

/// Between two sweeps.
const SWEEP_SECONDS: u64 = 60;

/// Puts their traces on the alert events that a window brought about; the steps, which end
/// when they are dropped.
pub(super) async fn mark(
    tx: &mut PgConnection,
    window: &Window,
    began: Moment,
    said: &mut [Event],
) -> Result<Vec<Span>, ConsumerError> {
    if !trace::is_on() || said.is_empty() {
        return Ok(Vec::new());
    }
    let positions: Vec<_> = said.iter().map(ground).collect();
    let of_window = |at: &i64| (window.after + 1..=window.to).contains(at);
    let asked: Vec<i64> = positions.iter().flatten().copied().filter(of_window).collect();
    let rows: Vec<(i64, String)> = match asked.is_empty() {
        true => Vec::new(),
        false => {
            let query = sqlx::query_as(include_str!("traces.sql"));
            query.bind(window.shard).bind(asked).fetch_all(tx).await?
        }
    };
    let traces: HashMap<i64, String> = rows.into_iter().collect();
    let mut spans: HashMap<&str, Span> = HashMap::new();
    let mut roots = Vec::new();
    for (event, position) in said.iter_mut().zip(positions) {
        match position {
            Some(position) if of_window(&position) => {
                let Some(stored) = traces.get(&position) else { continue };
                if let Some(span) = step_of(&mut spans, stored, began) {
                    put(event, span);
                }
            }
            Some(_) => roots.extend(begin(event, began)),
            // What a trial says is told to nobody.
            None => {}
        }
    }
    roots.extend(spans.into_values());
    roots.iter_mut().for_each(|span| span.set("vitals.shard", i64::from(window.shard)));
    Ok(roots)
}

/// Begins traces of what time alone brought about.
pub(super) fn mark_all(began: Moment, said: &mut [Event]) -> Vec<Span> {
    if !trace::is_on() {
        return Vec::new();
    }
    let told = said.iter_mut().filter(|event| event.is_alert());
    told.filter_map(|event| begin(event, began)).collect()
}

/// The step that judged what was appended in a context: one, whatever it led to.
fn step_of<'s, 'a>(
    spans: &'s mut HashMap<&'a str, Span>,
    stored: &'a str,
    began: Moment,
) -> Option<&'s Span> {
    Some(match spans.entry(stored) {
        Entry::Occupied(there) => there.into_mut(),
        Entry::Vacant(place) => {
            let context = TraceContext::of_stored(stored)?;
            place.insert(trace::child(&context, "rules", SpanKind::Internal, began)?)
        }
    })
}

fn begin(event: &mut Event, began: Moment) -> Option<Span> {
    let span = trace::root("rules", began)?;
    put(event, &span);
    Some(span)
}

fn put(event: &mut Event, span: &Span) {
    if let Err(error) = event.in_trace(&span.context()) {
        tracing::debug!(%error, "an alert goes without its trace");
    }
}

/// The position of the reading that an alert event stands on.
fn ground(event: &Event) -> Option<i64> {
    event.alert().ok().flatten().map(|alert| alert.reading_position)
}

/// Takes away, for ever, what the rules have read past.
pub async fn sweep_traces(pool: PgPool) {
    loop {
        tokio::time::sleep(Duration::from_secs(SWEEP_SECONDS)).await;
        let swept = sqlx::query(include_str!("sweep_traces.sql")).bind(RULES).execute(&pool);
        if let Err(error) = answered_soon(swept).await {
            tracing::debug!(%error, "traces that the rules have read are still there");
        }
    }
}
