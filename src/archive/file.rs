//! An archive's file: written once, read by row groups.
//!
//! Guarantees constant memory: one row group is held, whatever the file's size; and
//! that a file which cannot be what it says (another schema, another month, rows out of
//! order) is an error and never fewer rows. Whether its rows are those that the log
//! committed is the chain's to say.

use std::collections::BTreeMap;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::FOOTER_SIZE;
use parquet::file::metadata::{
    ColumnChunkMetaData, KeyValue, ParquetMetaData, ParquetMetaDataReader,
};
use parquet::file::statistics::Statistics;
use parquet::file::writer::SerializedFileWriter;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::columns::{
    ArchiveRow, FilePart, POSITION, ROWS_PER_GROUP_MAX, SHARD, properties, read_group, schema,
    write_group,
};
use super::store::{PlaceError, StoredObject, Upload};
use crate::log::chain;
use crate::log::partition::Span;

/// The largest footer that is read: some hundred bytes a column and row group.
const FOOTER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The largest row group that is read.
const GROUP_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The key of the file's metadata that holds [`About`] as JSON.
const ABOUT_KEY: &str = "vitals";

/// Why a file cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ArchiveFileError {
    #[error("{0}")]
    Place(#[from] PlaceError),
    #[error("{location}: {source}")]
    Parquet { location: String, source: ParquetError },
    #[error("{0}: there is no such file")]
    Missing(String),
    #[error("{location}: {what}")]
    Not { location: String, what: String },
}

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Of this structure.
    pub v: u8,
    /// Whose log it is a part of.
    pub installation: Uuid,
    /// The partition that it holds: `event_2025_12`.
    pub partition: String,
    /// The same for people: `2025-12`.
    pub month: String,
    /// How many.
    pub rows: u64,
    /// SHA-256 over the digests of the rows, in order; hexadecimal.
    pub rows_hash: String,
    /// Its shards, in order.
    pub shards: Vec<ShardRange>,
}

/// What a file holds of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRange {
    /// Which.
    pub shard: i16,
    /// How many.
    pub rows: u64,
    /// Their first position.
    pub first: i64,
    /// Their last position.
    pub last: i64,
    /// The chain's hash before the commit of the first, hexadecimal.
    pub chain_before: String,
    /// The chain's hash after the commit of the last, hexadecimal.
    pub chain_after: String,
}

impl About {
    /// The partition that it holds.
    pub fn span(&self) -> Option<Span> {
        Span::of_table(&self.partition)
    }
}

/// Bytes as text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What was written.
pub struct WrittenFile {
    /// Of the file.
    pub bytes: u64,
    /// The file's SHA-256.
    pub file_hash: [u8; 32],
    /// SHA-256 over its rows' digests.
    pub rows_hash: [u8; 32],
    /// How many.
    pub rows: u64,
    /// How many of them stay in the table.
    pub kept: u64,
}

/// A file being written.
pub struct Writer {
    location: String,
    parquet: SerializedFileWriter<Vec<u8>>,
    upload: Upload,
    held: Vec<ArchiveRow>,
    sha: Sha256,
    rows: u64,
    kept: u64,
}

impl Writer {
    /// Begins a file.
    pub fn new(object: &StoredObject) -> Result<Writer, ArchiveFileError> {
        let location = object.location.clone();
        let failed = |source| ArchiveFileError::Parquet { location: location.clone(), source };
        let properties = Arc::new(properties().map_err(failed)?);
        let parquet = SerializedFileWriter::new(Vec::new(), schema().map_err(failed)?, properties)
            .map_err(failed)?;
        Ok(Writer {
            location,
            parquet,
            upload: object.upload(),
            held: Vec::with_capacity(ROWS_PER_GROUP_MAX),
            sha: Sha256::new(),
            rows: 0,
            kept: 0,
        })
    }

    /// Adds a row, which follows the one before in (shard, position).
    pub async fn add(&mut self, row: ArchiveRow) -> Result<(), ArchiveFileError> {
        self.sha.update(chain::plain_digest(&row.recorded.event));
        self.rows += 1;
        self.kept += u64::from(row.kept);
        self.held.push(row);
        if self.held.len() >= ROWS_PER_GROUP_MAX { self.end_group().await } else { Ok(()) }
    }

    /// Ends the row group: the next row is of another shard.
    pub async fn end_group(&mut self) -> Result<(), ArchiveFileError> {
        if !self.held.is_empty() {
            let written = write_group(&mut self.parquet, &self.held);
            written.map_err(|source| self.failed(source))?;
            self.held.clear();
            self.drain().await?;
        }
        Ok(())
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Makes it whole. `about` is told how many rows, and the hash of their digests.
    pub async fn finish(
        mut self,
        about: impl FnOnce(u64, &[u8; 32]) -> About,
    ) -> Result<WrittenFile, ArchiveFileError> {
        self.end_group().await?;
        let rows_hash: [u8; 32] = std::mem::take(&mut self.sha).finalize().into();
        let about = serde_json::to_string(&about(self.rows, &rows_hash)).map_err(|error| {
            ArchiveFileError::Not { location: self.location.clone(), what: error.to_string() }
        })?;
        self.parquet.append_key_value_metadata(KeyValue::new(ABOUT_KEY.to_owned(), about));
        self.parquet.finish().map_err(|source| ArchiveFileError::Parquet {
            location: self.location.clone(),
            source,
        })?;
        self.drain().await?;
        let (rows, kept) = (self.rows, self.kept);
        let (bytes, file_hash) = self.upload.finish().await?;
        Ok(WrittenFile { bytes, file_hash, rows_hash, rows, kept })
    }

    /// Hands on what Parquet has written.
    async fn drain(&mut self) -> Result<(), ArchiveFileError> {
        let flushed = self.parquet.flush();
        flushed.map_err(|error| self.failed(error.into()))?;
        let bytes = std::mem::take(self.parquet.inner_mut());
        Ok(self.upload.put(bytes).await?)
    }

    fn failed(&self, source: ParquetError) -> ArchiveFileError {
        ArchiveFileError::Parquet { location: self.location.clone(), source }
    }
}

/// A row group, before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    index: usize,
    /// Of all its rows.
    pub shard: i16,
    /// Of its first row.
    pub first: i64,
    /// Of its last row.
    pub last: i64,
    /// How many.
    pub rows: u64,
}

/// A file to be read.
pub struct File {
    object: StoredObject,
    size: u64,
    metadata: Arc<ParquetMetaData>,
    /// What it says of itself.
    pub about: About,
    /// Its row groups, in the order of (shard, position).
    pub groups: Vec<Group>,
}

impl File {
    /// Reads what a file says of itself.
    pub async fn open(object: StoredObject) -> Result<File, ArchiveFileError> {
        let location = object.location.clone();
        let Some(size) = object.size().await? else {
            return Err(ArchiveFileError::Missing(location));
        };
        let not = |what: &str| ArchiveFileError::Not {
            location: location.clone(),
            what: what.to_owned(),
        };
        let failed = |source| ArchiveFileError::Parquet { location: location.clone(), source };
        let footer = FOOTER_SIZE as u64;
        if size < 2 * footer {
            return Err(not("too short for a Parquet file"));
        }
        let tail = object.range(size - footer..size).await?;
        let (length, magic) = tail.split_at(4);
        let length = u64::from(u32::from_le_bytes(length.try_into().unwrap_or_default()));
        if magic != b"PAR1" || length > size - footer || length > FOOTER_BYTES_MAX {
            return Err(not("not a Parquet file, or cut off"));
        }
        let bytes = object.range(size - footer - length..size - footer).await?;
        let metadata =
            tokio::task::spawn_blocking(move || ParquetMetaDataReader::decode_metadata(&bytes))
                .await
                .map_err(|_| not("its footer cannot be read"))?
                .map_err(failed)?;
        let about = metadata.file_metadata();
        if about.schema() != &*schema().map_err(failed)? {
            return Err(not("not an archive of vitals: other columns"));
        }
        let text = about.key_value_metadata().into_iter().flatten();
        let text = text.filter(|pair| pair.key == ABOUT_KEY).find_map(|pair| pair.value.as_deref());
        let about: About = text
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| not("not an archive of vitals: it does not say whose it is"))?;
        let groups = groups(&metadata).ok_or_else(|| not("its row groups are not in order"))?;
        if groups.iter().map(|group| group.rows).sum::<u64>() != about.rows {
            return Err(not("it has not as many rows as it says"));
        }
        Ok(File { object, size, metadata: Arc::new(metadata), about, groups })
    }

    /// Where it is.
    pub fn location(&self) -> &str {
        &self.object.location
    }

    /// The shards that it has rows of, with their first and last position.
    pub fn reaches(&self) -> BTreeMap<i16, (i64, i64)> {
        let mut reaches = BTreeMap::new();
        for group in &self.groups {
            reaches.entry(group.shard).or_insert((group.first, group.last)).1 = group.last;
        }
        reaches
    }

    /// Its SHA-256.
    pub async fn hash(&self) -> Result<[u8; 32], ArchiveFileError> {
        Ok(self.object.hash(self.size).await?)
    }

    /// The rows of a group: of its shard, in the order of their positions.
    pub async fn read(&self, group: Group) -> Result<Vec<ArchiveRow>, ArchiveFileError> {
        let not =
            |what: String| ArchiveFileError::Not { location: self.location().to_owned(), what };
        let place = place(self.metadata.row_group(group.index).columns(), self.size);
        let Some((from, to)) = place.filter(|(from, to)| to - from <= GROUP_BYTES_MAX) else {
            return Err(not(format!("its row group {} lies outside", group.index)));
        };
        let part = FilePart { at: from, bytes: self.object.range(from..to).await? };
        let metadata = self.metadata.clone();
        // On a thread of its own: it takes a while, and what is broken may make it panic.
        let read = tokio::task::spawn_blocking(move || read_group(&metadata, group.index, part));
        let rows = read
            .await
            .map_err(|_| not(format!("its row group {} cannot be read", group.index)))?
            .map_err(|source| ArchiveFileError::Parquet {
                location: self.location().to_owned(),
                source,
            })?;
        let mut before = group.first.saturating_sub(1);
        for ArchiveRow { recorded, .. } in &rows {
            if recorded.shard != group.shard
                || recorded.position <= before
                || recorded.position > group.last
            {
                return Err(not(format!(
                    "shard {}, position {}: a row out of its order",
                    recorded.shard, recorded.position
                )));
            }
            before = recorded.position;
        }
        Ok(rows)
    }
}

/// From where to where the pages of these columns reach in a file of `size` bytes.
///
/// Parquet's own `byte_range` panics when the footer has a negative number.
fn place(columns: &[ColumnChunkMetaData], size: u64) -> Option<(u64, u64)> {
    let mut place = None;
    for column in columns {
        let from = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
        let from = u64::try_from(from).ok()?;
        let length = u64::try_from(column.compressed_size()).ok()?;
        let to = from.checked_add(length).filter(|to| *to <= size)?;
        let (least, most) = place.unwrap_or((from, to));
        place = Some((from.min(least), to.max(most)));
    }
    place
}

/// The row groups, if they are in order and each is of one shard.
fn groups(metadata: &ParquetMetaData) -> Option<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::with_capacity(metadata.num_row_groups());
    for (index, about) in metadata.row_groups().iter().enumerate() {
        let rows = u64::try_from(about.num_rows()).ok()?;
        let Statistics::Int32(shard) = about.column(SHARD).statistics()? else { return None };
        let shard = (shard.min_opt()? == shard.max_opt()?).then_some(shard.min_opt()?)?;
        let Statistics::Int64(position) = about.column(POSITION).statistics()? else {
            return None;
        };
        let group = Group {
            index,
            shard: i16::try_from(*shard).ok()?,
            first: *position.min_opt()?,
            last: *position.max_opt()?,
            rows,
        };
        let before = groups.last().map(|group| (group.shard, group.last));
        if rows > ROWS_PER_GROUP_MAX as u64 || before >= Some((group.shard, group.first)) {
            return None;
        }
        groups.push(group);
    }
    Some(groups)
}
