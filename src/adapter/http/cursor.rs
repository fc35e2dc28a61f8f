//! Cursors: places in lists, opaque to the outside.
//!
//! Guarantees that a place in a history of the log which has ended is refused, and said to
//! be that. Does not order lists: their queries do.

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::log::Log;
use crate::wire::ProblemLinks;

/// A place in a list, with the log's incarnation.
pub fn write(log: &Log, place: &impl Serialize) -> String {
    let place = (log.incarnations().number(), place);
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&place).unwrap_or_default())
}

/// The cursor of the page after a full one.
pub fn next<'a, T, P: Serialize>(
    log: &Log,
    page: &'a [T],
    limit: i64,
    place: impl FnOnce(&'a T) -> P,
) -> Option<String> {
    let last = (page.len() as i64 == limit).then(|| page.last()).flatten();
    last.map(|last| write(log, &place(last)))
}

/// Reads a cursor that [`write()`] made; `link` is the list's own. One from before a restore is
/// refused: it would pass over what is new since then.
pub fn read<T: DeserializeOwned>(log: &Log, cursor: &str, link: &str) -> Result<T, Problem> {
    let text = URL_SAFE_NO_PAD.decode(cursor).ok().filter(|text| !holds_nul(text));
    let read = text.and_then(|text| serde_json::from_slice::<(i64, T)>(&text).ok());
    let (incarnation, place) = read.ok_or_else(foreign_cursor)?;
    if incarnation != log.incarnations().number() {
        let detail = "the log was restored since this cursor was given: begin the list again";
        return Err(log_restored(detail, link));
    }
    Ok(place)
}

/// 409: a place in a history of the log that has ended, and where to go on.
pub fn log_restored(detail: impl Into<String>, first: &str) -> Problem {
    let links = ProblemLinks { first: first.to_owned(), next: None };
    Problem::new(StatusCode::CONFLICT, "log_restored", detail)
        .with(|document| document.links = Some(links))
}

/// A time of a cursor.
pub fn time(micros: i64) -> Result<DateTime<Utc>, Problem> {
    DateTime::from_timestamp_micros(micros)
        .filter(|time| (1..=9999).contains(&time.year()))
        .ok_or_else(foreign_cursor)
}

fn holds_nul(json: &[u8]) -> bool {
    json.windows(6).any(|text| text == b"\\u0000")
}

fn foreign_cursor() -> Problem {
    Problem::unreadable("invalid_cursor", "the cursor is none of ours: start without one")
}

/// A text as part of a URL's query.
pub fn url_encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}
