//! Single fields of a line: what they hold, or what is wrong with them.

use chrono::{DateTime, Utc};

/// How much of a value or a header an error repeats, in characters.
const QUOTED_CHARS_MAX: usize = 120;

/// What is wrong with a line.
#[derive(Debug)]
pub struct RowFault {
    /// Stable; the codes are listed at [`super::super::contents::FileRow::Bad`].
    pub code: &'static str,
    /// What is wrong and how to mend it.
    pub detail: String,
}

impl RowFault {
    /// A fault with its code and its mend.
    pub fn new(code: &'static str, detail: String) -> RowFault {
        RowFault { code, detail }
    }
}

pub(super) fn needed<T>(field: Option<T>, name: &str) -> Result<T, RowFault> {
    field.ok_or_else(|| RowFault::new("missing_field", format!("\"{name}\" is missing: add it")))
}

pub(super) fn number(text: &str) -> Result<f64, RowFault> {
    // Rust also reads "nan" and "inf", which are no measurements.
    text.parse().ok().filter(|v: &f64| v.is_finite()).ok_or_else(|| not_a_number(text))
}

pub(super) fn not_a_number(text: &str) -> RowFault {
    let text = quoted(text);
    RowFault::new("not_a_number", format!("the value {text} is no number: write it like 36.8"))
}

pub(super) fn time(text: &str) -> Result<DateTime<Utc>, RowFault> {
    DateTime::parse_from_rfc3339(text).map(|t| t.to_utc()).map_err(|_| {
        let text = quoted(text);
        RowFault::new(
            "invalid_time",
            format!("{text} is no time: write RFC 3339 with a zone, like 2026-01-01T08:30:00Z"),
        )
    })
}

pub(super) fn not_utf8() -> RowFault {
    RowFault::new("not_utf8", "the line is not UTF-8: save the file as UTF-8".to_owned())
}

/// A text that is not ours, in quotes and short enough for a message.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", start_of(text))
}

pub(super) fn start_of(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
