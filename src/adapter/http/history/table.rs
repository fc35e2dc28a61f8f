//! A whole history as one table: CSV, NDJSON or Parquet, streamed.
//!
//! Guarantees that `vitals import` takes the lines of CSV and NDJSON, and that they hold all
//! that the log does of a reading; constant memory, a page of readings and for Parquet a row
//! group, and that a table which could not be finished breaks off: it never looks like a
//! shorter one. Does
//! not hold a connection or a snapshot while the client reads: pages follow each other by
//! their cursor, so what is recorded meanwhile may be in it.

use std::io::{self, Write};
use std::sync::Arc;

use async_stream::try_stream;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::format::TableFormat;
use crate::limits::shares::Permit;
use crate::query::bulk::BulkPage;
use crate::query::export::ExportRow;
use crate::query::reach::Unanswered;
use crate::wire::Reading;

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
        TableFormat::Parquet => Body::from_stream(as_parquet(patient_id, pages)),
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
        if format == TableFormat::Csv {
            yield Bytes::from_static(CSV_HEAD.as_bytes());
        }
        for await page in pages {
            let page = page.map_err(told)?;
            let mut text = Vec::new();
            for row in page.rows() {
                let reading = reading(&patient_id, &row.map_err(|error| told(error.into()))?)?;
                match format {
                    TableFormat::Csv => csv(&mut text, &reading)?,
                    _ => serde_json::to_writer(&mut text, &reading)?,
                }
                text.push(b'\n');
            }
            yield text.into();
        }
    }
}

/// A row as the wire has it.
fn reading<'a>(patient_id: &'a str, row: &ExportRow<'a>) -> io::Result<Reading<'a>> {
    row.reading(patient_id).ok_or_else(|| io::Error::other("a reading without a value"))
}

/// Ids, names and units hold neither commas nor quotes; a context has both.
fn csv(to: &mut Vec<u8>, reading: &Reading<'_>) -> io::Result<()> {
    write!(
        to,
        "{},{},{},{},{},{},{},{},",
        reading.patient_id.as_ref(),
        reading.device_id.as_ref(),
        reading.vital.name(),
        reading.value,
        reading.vital.unit(),
        reading.quality.name(),
        reading.measured_at,
        reading.recorded_at,
    )?;
    if let Some(own) = reading.device_quality {
        write!(to, "{}", own.number())?;
    }
    to.push(b',');
    if let Some(context) = &reading.context {
        write!(to, "\"{}\"", context.text().replace('"', "\"\""))?;
    }
    Ok(())
}

fn as_parquet(
    patient_id: String,
    pages: impl Stream<Item = Result<BulkPage, Unanswered>> + Send,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    try_stream! {
        let mut file = file().map_err(io::Error::other)?;
        let (mut held, mut count) = (Vec::new(), 0);
        for await page in pages {
            let page = page.map_err(told)?;
            count += page.rows().count();
            held.push(page);
            if count >= READINGS_PER_GROUP {
                yield write_group(&mut file, &patient_id, &held)?;
                held.clear();
                count = 0;
            }
        }
        yield write_group(&mut file, &patient_id, &held)?;
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
    pages: &[BulkPage],
) -> io::Result<Bytes> {
    let mut rows: Vec<ExportRow<'_>> = Vec::new();
    for row in pages.iter().flat_map(BulkPage::rows) {
        rows.push(row.map_err(|error| told(error.into()))?);
    }
    let readings = rows.iter().map(|row| reading(patient_id, row));
    let readings: Vec<Reading<'_>> = readings.collect::<io::Result<_>>()?;
    if !readings.is_empty() {
        // To the letter: a file of columns has no lines that a context could break.
        let contexts = rows.iter().map(|row| row.data.map(ByteArray::from));
        put_group(file, &readings, contexts).map_err(io::Error::other)?;
    }
    file.flush().map_err(io::Error::other)?;
    Ok(std::mem::take(file.inner_mut()).into())
}

fn put_group(
    file: &mut SerializedFileWriter<Vec<u8>>,
    rows: &[Reading<'_>],
    contexts: impl Iterator<Item = Option<ByteArray>>,
) -> Result<(), ParquetError> {
    let texts = |of: &dyn Fn(&Reading<'_>) -> ByteArray| rows.iter().map(of).collect::<Vec<_>>();
    let mut group = file.next_row_group()?;
    let to = &mut group;
    put::<ByteArrayType>(to, &texts(&|row| row.patient_id.as_ref().into()))?;
    put::<ByteArrayType>(to, &texts(&|row| row.device_id.as_ref().into()))?;
    put::<ByteArrayType>(to, &texts(&|row| row.vital.name().into()))?;
    put::<DoubleType>(to, &rows.iter().map(|row| row.value.0).collect::<Vec<_>>())?;
    put::<ByteArrayType>(to, &texts(&|row| row.vital.unit().into()))?;
    put::<ByteArrayType>(to, &texts(&|row| row.quality.name().into()))?;
    let measured = rows.iter().map(|row| row.measured_at.0.timestamp_micros());
    put::<Int64Type>(to, &measured.collect::<Vec<_>>())?;
    let recorded = rows.iter().map(|row| row.recorded_at.0.timestamp_micros());
    put::<Int64Type>(to, &recorded.collect::<Vec<_>>())?;
    put_some::<FloatType>(to, rows.iter().map(|row| row.device_quality.map(|own| own.0)))?;
    put_some::<ByteArrayType>(to, contexts)?;
    group.close()?;
    Ok(())
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
