//! Rows as columns: the schema of an archive's file, and its row groups.
//!
//! Guarantees that a row which is read is the row that was written, to the bit. The
//! file is plain Parquet: any tool reads it.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type,
};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{EnabledStatistics, ReaderProperties, WriterProperties};
use parquet::file::reader::{ChunkReader, Length, RowGroupReader};
use parquet::file::serialized_reader::SerializedRowGroupReader;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, Type};

use crate::event::{Event, Recorded};

/// The most rows of a row group: what is held in memory of a file that is written or
/// read.
pub const ROWS_PER_GROUP_MAX: usize = 32_768;

/// The columns of `event`, and `kept`: whether the row is also in the table.
const SCHEMA: &str = "message event {
    required int32 shard (INTEGER(16, true));
    required int64 position;
    required binary tenant (STRING);
    required binary patient_id (STRING);
    required binary type (STRING);
    optional binary vital (STRING);
    optional double value;
    optional float quality;
    required boolean suspect;
    required int64 occurred_at (TIMESTAMP(MICROS, true));
    required int64 recorded_at (TIMESTAMP(MICROS, true));
    required binary source_id (STRING);
    optional binary data (JSON);
    required boolean kept;
}";

/// The places of the columns that row groups are found by.
pub const SHARD: usize = 0;
/// See [`SHARD`].
pub const POSITION: usize = 1;

/// A row of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchiveRow {
    /// As in the log.
    pub recorded: Recorded,
    /// Whether it stayed in the table, too.
    pub kept: bool,
}

/// The schema of a file.
pub fn schema() -> Result<Arc<Type>> {
    parse_message_type(SCHEMA).map(Arc::new)
}

/// How a file is written. Numbers that grow are stored as differences, texts and
/// values that repeat once a row group.
pub fn properties() -> Result<WriterProperties> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by(concat!("vitals ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(None);
    for grows in ["position", "occurred_at", "recorded_at"] {
        let column = ColumnPath::from(grows);
        properties = properties
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
    }
    Ok(properties.build())
}

/// Writes rows of one shard as a row group.
pub fn write_group(writer: &mut SerializedFileWriter<Vec<u8>>, rows: &[ArchiveRow]) -> Result<()> {
    fn all<'a, T>(rows: &'a [ArchiveRow], of: impl Fn(&'a ArchiveRow) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    fn text(rows: &[ArchiveRow], of: impl Fn(&Event) -> &str) -> Vec<ByteArray> {
        rows.iter().map(|row| ByteArray::from(of(&row.recorded.event))).collect()
    }
    /// The values that are there, and for each row whether it is.
    fn some<'a, T>(
        rows: &'a [ArchiveRow],
        of: impl Fn(&'a Event) -> Option<T>,
    ) -> (Vec<T>, Vec<i16>) {
        let values = || rows.iter().map(|row| of(&row.recorded.event));
        (values().flatten().collect(), values().map(|value| i16::from(value.is_some())).collect())
    }
    let mut group = writer.next_row_group()?;
    let to = &mut group;
    put::<Int32Type>(to, &all(rows, |r| i32::from(r.recorded.shard)), None)?;
    put::<Int64Type>(to, &all(rows, |r| r.recorded.position), None)?;
    put::<ByteArrayType>(to, &text(rows, |e| &e.tenant), None)?;
    put::<ByteArrayType>(to, &text(rows, |e| &e.patient_id), None)?;
    put::<ByteArrayType>(to, &text(rows, |e| &e.kind), None)?;
    let (values, levels) = some(rows, |e| e.vital.map(|v| ByteArray::from(v.name())));
    put::<ByteArrayType>(to, &values, Some(&levels))?;
    let (values, levels) = some(rows, |e| e.value);
    put::<DoubleType>(to, &values, Some(&levels))?;
    let (values, levels) = some(rows, |e| e.quality);
    put::<FloatType>(to, &values, Some(&levels))?;
    put::<BoolType>(to, &all(rows, |r| r.recorded.event.suspect), None)?;
    put::<Int64Type>(to, &all(rows, |r| r.recorded.event.occurred_at.timestamp_micros()), None)?;
    put::<Int64Type>(to, &all(rows, |r| r.recorded.recorded_at.timestamp_micros()), None)?;
    put::<ByteArrayType>(to, &text(rows, |e| &e.source_id), None)?;
    let (values, levels) = some(rows, |e| e.data.as_deref().map(ByteArray::from));
    put::<ByteArrayType>(to, &values, Some(&levels))?;
    put::<BoolType>(to, &all(rows, |r| r.kept), None)?;
    group.close().map(|_| ())
}

fn put<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<()> {
    let mut column = group.next_column()?.ok_or_else(|| wrong("a column too many"))?;
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}

fn wrong(what: impl Into<String>) -> ParquetError {
    ParquetError::General(what.into())
}

/// A part of a file, read like the whole.
#[derive(Clone)]
pub struct FilePart {
    /// Where it begins in the file.
    pub at: u64,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Length for FilePart {
    fn len(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }
}

impl ChunkReader for FilePart {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let start = start.checked_sub(self.at).ok_or_else(|| wrong("before the part"))?;
        self.bytes.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let start = start.checked_sub(self.at).ok_or_else(|| wrong("before the part"))?;
        self.bytes.get_bytes(start, length)
    }
}

/// Reads a row group of a file with our schema from the part that holds it.
pub fn read_group(
    metadata: &ParquetMetaData,
    index: usize,
    part: FilePart,
) -> Result<Vec<ArchiveRow>> {
    let about = metadata.row_group(index);
    let count = usize::try_from(about.num_rows()).map_err(|_| wrong("fewer rows than none"))?;
    let properties = Arc::new(ReaderProperties::builder().build());
    let group = SerializedRowGroupReader::new(
        Arc::new(part),
        about,
        metadata.page_index_for_row_group(index),
        properties,
    )?;
    let mut columns = (0..about.num_columns()).map(|i| group.get_column_reader(i));
    let mut next = || columns.next().unwrap_or_else(|| Err(wrong("a column too few")));
    let shard = int32(next()?, count)?;
    let position = int64(next()?, count)?;
    let tenant = text(next()?, count)?;
    let patient_id = text(next()?, count)?;
    let kind = text(next()?, count)?;
    let vital = text(next()?, count)?;
    let value = double(next()?, count)?;
    let quality = float(next()?, count)?;
    let suspect = boolean(next()?, count)?;
    let occurred_at = int64(next()?, count)?;
    let recorded_at = int64(next()?, count)?;
    let source_id = text(next()?, count)?;
    let data = text(next()?, count)?;
    let kept = boolean(next()?, count)?;
    let row = |i: usize| {
        let vital = vital[i].as_ref().map(utf8).transpose()?;
        let event = Event {
            tenant: utf8(there(&tenant[i])?)?.into(),
            patient_id: utf8(there(&patient_id[i])?)?.to_owned(),
            kind: utf8(there(&kind[i])?)?.to_owned(),
            vital: vital.map(str::parse).transpose().map_err(|e| wrong(format!("{e}")))?,
            value: value[i],
            quality: quality[i],
            suspect: *there(&suspect[i])?,
            occurred_at: time(*there(&occurred_at[i])?)?,
            source_id: utf8(there(&source_id[i])?)?.to_owned(),
            data: data[i].as_ref().map(utf8).transpose()?.map(str::to_owned),
        };
        let shard = i16::try_from(*there(&shard[i])?).map_err(|_| wrong("no shard"))?;
        let (position, recorded_at) = (*there(&position[i])?, time(*there(&recorded_at[i])?)?);
        let recorded = Recorded { shard, position, recorded_at, event };
        Ok(ArchiveRow { recorded, kept: *there(&kept[i])? })
    };
    (0..count).map(row).collect()
}

fn there<T>(value: &Option<T>) -> Result<&T> {
    value.as_ref().ok_or_else(|| wrong("a value is missing"))
}

fn utf8(bytes: &ByteArray) -> Result<&str> {
    std::str::from_utf8(bytes.data()).map_err(|error| wrong(error.to_string()))
}

fn time(micros: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros).ok_or_else(|| wrong("no time"))
}

/// Every value of a column, `None` where there is none.
fn values<T: DataType>(mut from: ColumnReaderImpl<T>, count: usize) -> Result<Vec<Option<T::T>>> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let (records, _, _) = from.read_records(count, Some(&mut levels), None, &mut values)?;
    if records != count {
        return Err(wrong(format!("{records} rows of {count}")));
    }
    if levels.is_empty() {
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    Ok(levels.into_iter().map(|level| if level > 0 { values.next() } else { None }).collect())
}

macro_rules! column {
    ($name:ident, $variant:ident, $value:ty) => {
        fn $name(column: ColumnReader, count: usize) -> Result<Vec<Option<$value>>> {
            match column {
                ColumnReader::$variant(column) => values(column, count),
                _ => Err(wrong(concat!("a column that is no ", stringify!($name)))),
            }
        }
    };
}

column!(int32, Int32ColumnReader, i32);
column!(int64, Int64ColumnReader, i64);
column!(text, ByteArrayColumnReader, ByteArray);
column!(double, DoubleColumnReader, f64);
column!(float, FloatColumnReader, f32);
column!(boolean, BoolColumnReader, bool);
