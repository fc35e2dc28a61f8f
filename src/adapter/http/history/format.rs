//! In which format a history is wanted.
//!
//! Guarantees that what is named and can be given is given, by the weights of the
//! `Accept` header, and JSON where nothing is named. Does not guess by file names.

use axum::http::{HeaderMap, StatusCode, header};

use crate::adapter::http::problem::Problem;
use crate::wire::TableFormat;

/// What a history can come as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryFormat {
    /// A page as JSON, with a cursor to the next.
    Page,
    /// All of it.
    Table(TableFormat),
}

const FORMATS: [HistoryFormat; 4] = [
    HistoryFormat::Page,
    HistoryFormat::Table(TableFormat::Csv),
    HistoryFormat::Table(TableFormat::Ndjson),
    HistoryFormat::Table(TableFormat::Parquet),
];

impl HistoryFormat {
    /// Its media type.
    fn media_type(self) -> &'static str {
        match self {
            HistoryFormat::Page => "application/json",
            HistoryFormat::Table(format) => format.media_type(),
        }
    }

    /// The one that is wanted most; the first of the list where several are.
    pub fn wanted(headers: &HeaderMap) -> Result<HistoryFormat, Problem> {
        let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges: Vec<(&str, f32)> =
            accept.flat_map(|value| value.split(',')).map(range).collect();
        if ranges.is_empty() {
            return Ok(HistoryFormat::Page);
        }
        let mut best = None;
        for format in FORMATS {
            let weight = weight(&ranges, format.media_type());
            if weight > best.map_or(0.0, |(weight, _)| weight) {
                best = Some((weight, format));
            }
        }
        best.map(|(_, format)| format).ok_or_else(|| {
            let names = FORMATS.map(HistoryFormat::media_type).join(", ");
            let detail = format!("a history comes as one of {names}: name one in Accept");
            Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", detail)
        })
    }
}

/// `text/csv;q=0.5` as its range and weight.
fn range(text: &str) -> (&str, f32) {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok());
    (range, weight.unwrap_or(1.0))
}

/// The weight of the range that names a type most closely.
fn weight(ranges: &[(&str, f32)], media_type: &str) -> f32 {
    let all_of_kind = media_type.split_once('/').map(|(kind, _)| format!("{kind}/*"));
    let names = [media_type, all_of_kind.as_deref().unwrap_or_default(), "*/*"];
    let named = |name: &str| ranges.iter().find(|(range, _)| range.eq_ignore_ascii_case(name));
    names.into_iter().find_map(named).map_or(0.0, |(_, weight)| *weight)
}

#[cfg(test)]
mod tests {
    use super::HistoryFormat::Table;
    use super::*;

    #[track_caller]
    fn check(accept: &[&str], expect: Option<HistoryFormat>) {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(header::ACCEPT, value.parse().unwrap());
        }
        assert_eq!(HistoryFormat::wanted(&headers).ok(), expect, "{accept:?}");
    }

    #[test]
    fn the_most_wanted_format_is_given() {
        check(&[], Some(HistoryFormat::Page));
        check(&["*/*"], Some(HistoryFormat::Page));
        check(&["text/html,application/xhtml+xml,*/*;q=0.8"], Some(HistoryFormat::Page));
        check(&["text/csv"], Some(Table(TableFormat::Csv)));
        check(&["text/*"], Some(Table(TableFormat::Csv)));
        check(&["application/x-ndjson"], Some(Table(TableFormat::Ndjson)));
        check(&["application/vnd.apache.parquet"], Some(Table(TableFormat::Parquet)));
        check(&["application/json;q=0.5, text/csv;q=0.9"], Some(Table(TableFormat::Csv)));
        check(&["application/json;q=0", "application/*"], Some(Table(TableFormat::Ndjson)));
        check(&["TEXT/CSV; charset=utf-8"], Some(Table(TableFormat::Csv)));
        check(&["image/png"], None);
        check(&["text/csv;q=0"], None);
    }
}
