//! A whole history as one table: CSV, NDJSON or Parquet, streamed.
//!
//! Guarantees the rows of `query::table`; constant memory, a page of readings and for Parquet
//! a row group, and that a table which could not be finished breaks off: it never looks like a
//! shorter one. Does
//! not hold a connection or a snapshot while the client reads: pages follow each other by
//! their cursor, so what is recorded meanwhile may be in it.

use std::io;
use std::sync::Arc;

use async_stream::try_stream;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::limits::shares::Permit;
use crate::query::bulk::BulkPage;
use crate::query::reach::Unanswered;
use crate::query::table::{self, ParquetTable};
use crate::wire::TableFormat;

/// The answer; `place` is held to its end.
pub fn answer(
    patient_id: String,
    pages: impl Stream<Item = Result<BulkPage, Unanswered>> + Send + 'static,
    format: TableFormat,
    place: Permit,
) -> Response {
    let pages = pages.inspect(move |_| {
        let _held = &place;
    });
    let body = match format {
        TableFormat::Parquet => Body::from_stream(as_parquet(patient_id.into(), pages)),
        _ => Body::from_stream(as_lines(patient_id, pages, format)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

fn as_lines(
    patient_id: String,
    pages: impl Stream<Item = Result<BulkPage, Unanswered>> + Send,
    format: TableFormat,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    try_stream! {
        if !table::head(format).is_empty() {
            yield Bytes::from_static(table::head(format).as_bytes());
        }
        for await page in pages {
            let page = page.map_err(told)?;
            let mut text = Vec::new();
            for row in page.rows() {
                let row = row.map_err(|error| told(error.into()))?;
                table::line(&mut text, format, &patient_id, &row)?;
            }
            yield text.into();
        }
    }
}

fn as_parquet(
    patient_id: Arc<str>,
    pages: impl Stream<Item = Result<BulkPage, Unanswered>> + Send,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    try_stream! {
        let mut table = ParquetTable::new()?;
        for await page in pages {
            let group = table.push(patient_id.clone(), page.map_err(told)?)?;
            if !group.is_empty() {
                yield group.into();
            }
        }
        yield table.end()?.into();
    }
}

/// The answer has begun: all that can be done is to break it off.
fn told(error: Unanswered) -> io::Error {
    tracing::error!(%error, "a table was broken off because the log cannot be read");
    io::Error::other("the log cannot be read now")
}
