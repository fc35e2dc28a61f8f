//! A whole history as one table: CSV, NDJSON or Parquet, streamed.
//!
//! Guarantees that `vitals import` takes the lines of CSV and NDJSON, and that they hold all
//! that the log does of a reading; constant memory, a page of readings and for Parquet a row group, and that a
//! table which could not be finished breaks off: it never looks like a shorter one. Does
//! not hold a connection or a snapshot while the client reads: pages follow each other by
//! their cursor, so what is recorded meanwhile may be in it.

use std::io;
use std::sync::Arc;

use async_stream::try_stream;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::Stream;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::format::TableFormat;
use crate::adapter::http::to_wire;
use crate::clock::rfc3339;
use crate::limits::shares::Permit;
use crate::log::Log;
use crate::query::history::{HistoryQuery, cursor_of, page};
use crate::query::reach::Unanswered;
use crate::query::state::Newest;
use crate::wire::{Context, Number, Opinion, Quality};

/// Readings read at once.
const READINGS_PER_PAGE: i64 = 5_000;
/// Readings of a row group of Parquet, which is held until it is full.
const READINGS_PER_GROUP: usize = 20_000;

const CSV_HEAD: &str = "patientId,deviceId,vital,value,unit,quality,measuredAt,recordedAt,\
                        deviceQuality,context\n";

const SCHEMA: &str = "message readings {
    required binary patient_id (STRING);
    required binary device_id (STRING);
    required binary vital (STRING);
    required double value;
    required binary unit (STRING);
    required binary quality (STRING);
    required int64 measured_at (TIMESTAMP(MICROS, true));
    required int64 recorded_at (TIMESTAMP(MICROS, true));
    optional float device_quality;
    optional binary context (JSON);
}";

/// The answer; `first` is its first page, which was asked for before it begins, and `place`
/// is held to its end.
pub fn answer(
    log: Log,
    question: HistoryQuery,
    first: Vec<Newest>,
    format: TableFormat,
    place: Permit,
) -> Response {
    let rows = pages(log, question.clone(), first, place);
    let body = match format {
        TableFormat::Parquet => Body::from_stream(as_parquet(question.patient_id, rows)),
        _ => Body::from_stream(as_lines(question.patient_id, rows, format)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// How many readings the first page is asked for.
pub const FIRST_PAGE: i64 = READINGS_PER_PAGE;

fn pages(
    log: Log,
    question: HistoryQuery,
    first: Vec<Newest>,
    place: Permit,
) -> impl Stream<Item = Result<Vec<Newest>, Unanswered>> + Send {
    try_stream! {
        let _place = place;
        let mut rows = first;
        loop {
            let full = rows.len() as i64 == READINGS_PER_PAGE;
            let after = rows.last().map(cursor_of);
            yield rows;
            if !full {
                break;
            }
            rows = page(&log, &question, after.as_ref(), READINGS_PER_PAGE).await?;
        }
    }
}

fn as_lines(
    patient_id: String,
    pages: impl Stream<Item = Result<Vec<Newest>, Unanswered>> + Send,
    format: TableFormat,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    try_stream! {
        if format == TableFormat::Csv {
            yield Bytes::from_static(CSV_HEAD.as_bytes());
        }
        for await rows in pages {
            let mut text = String::new();
            for row in rows.map_err(told)? {
                text.push_str(&match format {
                    TableFormat::Csv => csv(&patient_id, &row),
                    _ => serde_json::to_string(&to_wire::reading(&patient_id, row))?,
                });
                text.push('\n');
            }
            yield text.into();
        }
    }
}

/// Ids, names and units hold neither commas nor quotes; a context has both.
fn csv(patient_id: &str, row: &Newest) -> String {
    let own = row.quality.map(|quality| Opinion(quality).number().to_string());
    let quoted = |json: &String| format!("\"{}\"", Context::new(json).text().replace('"', "\"\""));
    [
        patient_id,
        &row.device_id,
        row.vital.name(),
        &Number(row.value).to_string(),
        row.vital.unit(),
        Quality::of(row.suspect).name(),
        &rfc3339(row.measured_at),
        &rfc3339(row.recorded_at),
        &own.unwrap_or_default(),
        &row.context.as_ref().map(quoted).unwrap_or_default(),
    ]
    .join(",")
}

fn as_parquet(
    patient_id: String,
    pages: impl Stream<Item = Result<Vec<Newest>, Unanswered>> + Send,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    try_stream! {
        let mut file = file().map_err(io::Error::other)?;
        let mut held: Vec<Newest> = Vec::new();
        for await rows in pages {
            held.extend(rows.map_err(told)?);
            if held.len() >= READINGS_PER_GROUP {
                yield write_group(&mut file, &patient_id, &held).map_err(io::Error::other)?;
                held.clear();
            }
        }
        yield write_group(&mut file, &patient_id, &held).map_err(io::Error::other)?;
        file.finish().map_err(io::Error::other)?;
        yield std::mem::take(file.inner_mut()).into();
    }
}

fn file() -> Result<SerializedFileWriter<Vec<u8>>, ParquetError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_created_by(concat!("vitals ", env!("CARGO_PKG_VERSION")).to_owned())
        .build();
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))
}

/// The bytes of a row group; the first one brings the file's beginning along.
fn write_group(
    file: &mut SerializedFileWriter<Vec<u8>>,
    patient_id: &str,
    rows: &[Newest],
) -> Result<Bytes, ParquetError> {
    let texts = |of: &dyn Fn(&Newest) -> ByteArray| rows.iter().map(of).collect::<Vec<_>>();
    if !rows.is_empty() {
        let mut group = file.next_row_group()?;
        let to = &mut group;
        put::<ByteArrayType>(to, &texts(&|_| patient_id.into()))?;
        put::<ByteArrayType>(to, &texts(&|row| row.device_id.as_str().into()))?;
        put::<ByteArrayType>(to, &texts(&|row| row.vital.name().into()))?;
        put::<DoubleType>(to, &rows.iter().map(|row| row.value).collect::<Vec<_>>())?;
        put::<ByteArrayType>(to, &texts(&|row| row.vital.unit().into()))?;
        put::<ByteArrayType>(to, &texts(&|row| Quality::of(row.suspect).name().into()))?;
        let measured = rows.iter().map(|row| row.measured_at.timestamp_micros());
        put::<Int64Type>(to, &measured.collect::<Vec<_>>())?;
        let recorded = rows.iter().map(|row| row.recorded_at.timestamp_micros());
        put::<Int64Type>(to, &recorded.collect::<Vec<_>>())?;
        let own = rows.iter().map(|row| row.quality);
        put_some::<FloatType>(to, own)?;
        let contexts = rows.iter().map(|row| row.context.as_deref().map(ByteArray::from));
        put_some::<ByteArrayType>(to, contexts)?;
        group.close()?;
    }
    file.flush()?;
    Ok(std::mem::take(file.inner_mut()).into())
}

fn put<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
) -> Result<(), ParquetError> {
    let too_many = || ParquetError::General("a column too many".into());
    let mut column = group.next_column()?.ok_or_else(too_many)?;
    column.typed::<T>().write_batch(values, None, None)?;
    column.close()
}

/// A column that need not be there.
fn put_some<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<(), ParquetError> {
    let (mut there, mut levels) = (Vec::new(), Vec::new());
    for value in values {
        levels.push(i16::from(value.is_some()));
        there.extend(value);
    }
    let too_many = || ParquetError::General("a column too many".into());
    let mut column = group.next_column()?.ok_or_else(too_many)?;
    column.typed::<T>().write_batch(&there, Some(&levels), None)?;
    column.close()
}

/// The answer has begun: all that can be done is to break it off.
fn told(error: Unanswered) -> io::Error {
    tracing::error!(%error, "a table was broken off because the log cannot be read");
    io::Error::other("the log cannot be read now")
}
