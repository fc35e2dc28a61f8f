//! Readings as rows of one table: CSV, NDJSON or Parquet. Whoever hands them out writes them
//! by this: a history that is streamed, and an export.
//!
//! Guarantees that `vitals import` takes the lines of CSV and NDJSON, and that they hold all
//! that the log does of a reading. Of Parquet a row group is held until it is full.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::bulk::BulkPage;
use super::export::ExportRow;
use crate::wire::{Reading, TableFormat};

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

/// What stands above the lines of a format.
pub fn head(format: TableFormat) -> &'static str {
    if format == TableFormat::Csv { CSV_HEAD } else { "" }
}

/// Writes a reading's line, with its end.
pub fn line(
    to: &mut impl Write,
    format: TableFormat,
    patient_id: &str,
    row: &ExportRow<'_>,
) -> io::Result<()> {
    let reading = reading(patient_id, row)?;
    match format {
        TableFormat::Csv => csv(to, &reading)?,
        TableFormat::Ndjson => serde_json::to_writer(&mut *to, &reading)?,
        TableFormat::Parquet => return Err(io::Error::other("columns have no lines")),
    }
    to.write_all(b"\n")
}

/// A row as the wire has it.
fn reading<'a>(patient_id: &'a str, row: &ExportRow<'a>) -> io::Result<Reading<'a>> {
    row.reading(patient_id).ok_or_else(|| io::Error::other("a reading without a value"))
}

/// Ids, names and units hold neither commas nor quotes; a context has both.
fn csv(to: &mut impl Write, reading: &Reading<'_>) -> io::Result<()> {
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
    to.write_all(b",")?;
    if let Some(context) = &reading.context {
        write!(to, "\"{}\"", context.text().replace('"', "\"\""))?;
    }
    Ok(())
}

/// A file of columns, as far as it is written.
pub struct ParquetTable {
    file: SerializedFileWriter<Vec<u8>>,
    /// What is held, each page with whose it is.
    pages: Vec<(Arc<str>, BulkPage)>,
    count: usize,
}

impl ParquetTable {
    /// Without a row.
    pub fn new() -> io::Result<ParquetTable> {
        let file = file().map_err(io::Error::other)?;
        Ok(ParquetTable { file, pages: Vec::new(), count: 0 })
    }

    /// Takes a patient's readings; the bytes of a row group whenever one is full. The first
    /// one brings the file's beginning along.
    pub fn push(&mut self, patient_id: Arc<str>, page: BulkPage) -> io::Result<Vec<u8>> {
        self.count += page.rows().count();
        self.pages.push((patient_id, page));
        if self.count < READINGS_PER_GROUP { Ok(Vec::new()) } else { self.group() }
    }

    /// The rest of it.
    pub fn end(mut self) -> io::Result<Vec<u8>> {
        let mut last = self.group()?;
        self.file.finish().map_err(io::Error::other)?;
        last.extend_from_slice(self.file.inner_mut());
        Ok(last)
    }

    fn group(&mut self) -> io::Result<Vec<u8>> {
        let pages = std::mem::take(&mut self.pages);
        let mut rows: Vec<(&str, ExportRow<'_>)> = Vec::with_capacity(self.count);
        for (patient_id, page) in &pages {
            for row in page.rows() {
                rows.push((patient_id, row.map_err(io::Error::other)?));
            }
        }
        let readings = rows.iter().map(|(patient_id, row)| reading(patient_id, row));
        let readings: Vec<Reading<'_>> = readings.collect::<io::Result<_>>()?;
        if !readings.is_empty() {
            // To the letter: a file of columns has no lines that a context could break.
            let contexts = rows.iter().map(|(_, row)| row.data.map(ByteArray::from));
            put_group(&mut self.file, &readings, contexts).map_err(io::Error::other)?;
        }
        self.count = 0;
        self.file.flush().map_err(io::Error::other)?;
        Ok(std::mem::take(self.file.inner_mut()))
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
