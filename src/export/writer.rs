//! Pages of readings into parts of an export.
//!
//! Guarantees bounded memory (a part, and of Parquet a row group), and that lines which are not
//! encrypted end a part with the end of a line: its place is one to go on from, and the bytes
//! are those that an undisturbed writer would have written. Does not read the log.

use std::io::{self, Write};
use std::sync::Arc;

use age::x25519::Recipient;
use chrono::{DateTime, Utc};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest, Sha256};
use tokio::task::block_in_place;

use super::output::Output;
use super::store::{Begun, EXPORT_BYTES_MAX, ExportStore, Hold, Part, Place, Put};
use crate::query::bulk::BulkPage;
use crate::query::export::ExportRow;
use crate::query::table::{self, ParquetTable};
use crate::wire::TableFormat;

/// A part is written when so many bytes are there; a line is not cut for it.
const PART_BYTES: usize = 1024 * 1024;

/// Why an export was not written on.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// PostgreSQL said no, or is gone.
    #[error("writing a part: {0}")]
    Database(#[from] sqlx::Error),
    /// A row that cannot be written.
    #[error("writing a row: {0}")]
    Row(#[from] io::Error),
    /// Somebody else has the job by now, or it was cancelled.
    #[error("the job is another's by now")]
    Lost,
    /// It is too large; why, and what to do.
    #[error("{0}")]
    TooLarge(String),
}

/// Whose readings a page has.
#[derive(Clone, Debug)]
pub struct Patient {
    /// Their shard.
    pub shard: i16,
    /// Their id.
    pub id: Arc<str>,
    /// How many readings are expected.
    pub expected: i64,
}

/// How rows are put into bytes.
enum Rows {
    Lines(TableFormat),
    Columns(Box<ParquetTable>),
}

/// Writes an export.
pub struct Writer<'a> {
    store: &'a ExportStore,
    hold: Hold<'a>,
    rows: Rows,
    output: Output,
    hash: Sha256,
    bytes: i64,
    readings: i64,
    patients: i64,
    /// The last patient of whom there was a page.
    patient: Option<Arc<str>>,
    /// Of the last line, where one can go on from it.
    place: Option<Place>,
}

impl<'a> Writer<'a> {
    /// Behind what there is of it.
    pub fn new(
        store: &'a ExportStore,
        hold: Hold<'a>,
        (format, recipients): (TableFormat, &[Recipient]),
        (begun, place): (&Begun, Option<Place>),
    ) -> io::Result<Writer<'a>> {
        let hash = match &begun.hash {
            Some(state) => as_it_was(state)
                .ok_or_else(|| io::Error::other("a stored hash that this version cannot read"))?,
            None => Sha256::new(),
        };
        let rows = match format {
            TableFormat::Parquet => Rows::Columns(Box::new(ParquetTable::new()?)),
            _ => Rows::Lines(format),
        };
        let mut output = Output::new(recipients)?;
        if begun.bytes == 0 {
            output.write_all(table::head(format).as_bytes())?;
        }
        let patient = place.as_ref().map(|place| place.patient_id.as_str().into());
        let Begun { bytes, readings, patients, .. } = *begun;
        Ok(Writer { store, hold, rows, output, hash, bytes, readings, patients, patient, place })
    }

    /// Readings that are written, or soon will be.
    pub fn readings(&self) -> i64 {
        self.readings
    }

    /// The readings of a patient that come next.
    pub async fn page(&mut self, patient: &Patient, page: BulkPage) -> Result<(), WriterError> {
        if self.patient.as_ref() != Some(&patient.id) {
            self.patients += 1;
            self.patient = Some(patient.id.clone());
        }
        if let Rows::Columns(table) = &mut self.rows {
            self.readings += i64::try_from(page.rows().count()).unwrap_or(0);
            let output = &mut self.output;
            block_in_place(|| output.write_all(&table.push(patient.id.clone(), page)?))?;
            return if self.output.len() >= PART_BYTES { self.put().await } else { Ok(()) };
        }
        let mut rows = page.rows();
        while block_in_place(|| self.lines(patient, &mut rows))? {
            self.put().await?;
        }
        Ok(())
    }

    /// Writes lines until there is enough for a part; `false` when the rows came to their end.
    fn lines<'r>(
        &mut self,
        patient: &Patient,
        rows: &mut impl Iterator<Item = Result<ExportRow<'r>, sqlx::Error>>,
    ) -> Result<bool, WriterError> {
        let Rows::Lines(format) = self.rows else { return Ok(false) };
        let (mut last, mut is_full) = (None, false);
        while !is_full && let Some(row) = rows.next().transpose()? {
            match &mut self.output {
                Output::Plain(bytes) => table::line(bytes, format, &patient.id, &row)?,
                sealed @ Output::Sealed(..) => {
                    // Not piece by piece: sealing looks at each.
                    let mut line = Vec::with_capacity(256);
                    table::line(&mut line, format, &patient.id, &row)?;
                    sealed.write_all(&line)?;
                }
            }
            self.readings += 1;
            is_full = self.output.len() >= PART_BYTES;
            last = Some(row);
        }
        if let Some(row) = last.filter(|_| self.output.is_plain()) {
            self.place = Some(place(patient, &row)?);
        }
        Ok(is_full)
    }

    /// The end of it: how many bytes there are, their hash, and until when they are kept.
    pub async fn end(mut self) -> Result<Ended, WriterError> {
        if let Rows::Columns(table) =
            std::mem::replace(&mut self.rows, Rows::Lines(TableFormat::Csv))
        {
            let output = &mut self.output;
            block_in_place(|| output.write_all(&table.end()?))?;
        }
        let output = std::mem::replace(&mut self.output, Output::Plain(Vec::new()));
        self.output = Output::Plain(output.end()?);
        self.put().await?;
        let hash = self.hash.finalize();
        let expires_at = self.store.end(self.hold, &hash).await?.ok_or(WriterError::Lost)?;
        let (bytes, readings, patients) = (self.bytes, self.readings, self.patients);
        Ok(Ended { bytes, readings, patients, sha256: hash.to_vec(), expires_at })
    }

    /// Writes what is there, in parts.
    async fn put(&mut self) -> Result<(), WriterError> {
        let gathered = self.output.take();
        // One part, if it has a place: that is the place of its end.
        let most = if self.place.is_some() { gathered.len().max(1) } else { PART_BYTES };
        let place = self.place.as_ref().map(serde_json::to_string).transpose();
        let place = place.map_err(io::Error::other)?;
        for data in gathered.chunks(most) {
            let hash = &mut self.hash;
            block_in_place(|| hash.update(data));
            let part = Part {
                first: self.bytes,
                data,
                readings: self.readings,
                patients: self.patients,
                place: place.as_deref(),
                hash: &self.hash.serialize(),
            };
            self.bytes = self.bytes.saturating_add(i64::try_from(data.len()).unwrap_or(i64::MAX));
            if self.bytes > EXPORT_BYTES_MAX {
                return Err(too_large(
                    "this export",
                    EXPORT_BYTES_MAX,
                    "ask for less of it at once",
                ));
            }
            match self.store.put(self.hold, part).await? {
                Put::Written => {}
                Put::Lost => return Err(WriterError::Lost),
                Put::TenantFull => {
                    let mend = "DELETE the jobs whose bytes you have";
                    return Err(too_large("your exports", super::TENANT_BYTES_MAX, mend));
                }
                Put::Full => {
                    let mend = "ask again when some have expired";
                    return Err(too_large("all exports", super::INSTALLATION_BYTES_MAX, mend));
                }
            }
        }
        Ok(())
    }
}

/// What came of an export.
pub struct Ended {
    /// In its parts.
    pub bytes: i64,
    /// In these.
    pub readings: i64,
    /// Of whom there are any.
    pub patients: i64,
    /// Of the bytes.
    pub sha256: Vec<u8>,
    /// Until when they are kept.
    pub expires_at: DateTime<Utc>,
}

fn too_large(what: &str, most: i64, mend: &str) -> WriterError {
    WriterError::TooLarge(format!("{what} would have more than {most} bytes: {mend}"))
}

fn as_it_was(state: &[u8]) -> Option<Sha256> {
    let state = SerializedState::<Sha256>::try_from(state).ok()?;
    Sha256::deserialize(&state).ok()
}

fn place(patient: &Patient, row: &ExportRow<'_>) -> io::Result<Place> {
    let lacking = || io::Error::other("a reading without a place");
    Ok(Place {
        shard: patient.shard,
        patient_id: patient.id.to_string(),
        measured_at: DateTime::from_timestamp_micros(row.occurred_at).ok_or_else(lacking)?,
        vital: row.vital.ok_or_else(lacking)?,
        device_id: row.source_id.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_goes_on_from_where_it_was_left() {
        let mut whole = Sha256::new();
        for _ in 0..3 {
            let state = whole.serialize();
            whole = as_it_was(&state).unwrap();
            whole.update(b"a part whose length is no multiple of a block's");
        }
        let all = b"a part whose length is no multiple of a block's".repeat(3);
        assert_eq!(whole.finalize(), Sha256::digest(all));
        assert!(as_it_was(b"short").is_none());
    }
}
