//! Reading the history: narrow rows by binary COPY, decoded by hand.
//!
//! Guarantees that a slice of time is either held whole or refused, when it has more
//! than [`ROWS_HELD_MAX`] rows: then the caller asks for smaller ones. Does not order
//! rows: PostgreSQL sends them as they lie, which costs it least.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::StreamExt;
use sqlx::PgPool;

use super::{BacktestError, Progress, Question};
use crate::vital::Vital;

/// Rows that a worker holds, at 48 bytes each.
pub const ROWS_HELD_MAX: usize = 2_000_000;

/// Bytes that are gathered before they are taken apart.
const CHUNK_BYTES: usize = 64 * 1024;

/// PostgreSQL counts microseconds from 2000 on.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// What a binary COPY begins with, before its flags.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// A reading, as narrow as it can be.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Microseconds since 1970.
    pub at: i64,
    /// In the shard's order.
    pub position: i64,
    /// In the canonical unit.
    pub value: f64,
    /// Which device of those that were met.
    pub device: u32,
    /// The device's own opinion; not a number where it has none.
    pub quality: f32,
    /// What.
    pub vital: Vital,
    /// Implausible.
    pub suspect: bool,
}

/// Names that were met, by number.
#[derive(Default)]
pub struct Names {
    numbers: HashMap<Box<[u8]>, u32>,
    names: Vec<String>,
    last: u32,
}

impl Names {
    /// The number of a name; almost always that of the row before.
    fn number(&mut self, name: &[u8]) -> u32 {
        if self.names.get(self.last as usize).is_some_and(|last| last.as_bytes() == name) {
            return self.last;
        }
        let next = self.names.len() as u32;
        self.last = match self.numbers.get(name) {
            Some(number) => *number,
            None => {
                self.numbers.insert(name.into(), next);
                self.names.push(String::from_utf8_lossy(name).into_owned());
                next
            }
        };
        self.last
    }

    /// The name of a number.
    pub fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("", String::as_str)
    }
}

/// A slice of a shard's history.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// Of which shard.
    pub shard: i16,
    /// Measured from here on.
    pub from: DateTime<Utc>,
    /// Until here, not included.
    pub to: DateTime<Utc>,
}

impl Slice {
    /// Both halves.
    pub fn halves(self) -> [Slice; 2] {
        let middle = self.from + (self.to - self.from) / 2;
        [Slice { to: middle, ..self }, Slice { from: middle, ..self }]
    }

    /// What is asked of it. Everything in it is ours: ids are FHIR ids and hold no quote.
    pub fn sql(self, question: &Question) -> String {
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let vitals: Vec<String> =
            question.vitals().iter().map(|vital| format!("'{}'", vital.name())).collect();
        // What is known before is not sent: putting a column into words costs as much as a read.
        let vital = if question.only_vital().is_some() { "null" } else { "vital" };
        let (suspect, sent) = match question.wants_suspect() {
            true => ("", "suspect"),
            false => (" and not suspect", "null"),
        };
        format!(
            "select patient_id, source_id, {vital}, occurred_at, value, position, {sent}, quality \
             from event where shard = {} and tenant = '{}' and type = 'reading' \
             and vital in ({}){suspect} and occurred_at >= '{}' and occurred_at < '{}'",
            self.shard,
            question.tenant,
            vitals.join(", "),
            time(self.from),
            time(self.to)
        )
    }
}

/// The rows of one slice, by patient.
#[derive(Default)]
pub struct Held {
    /// Patients that were met, in any slice.
    pub patients: Names,
    /// Devices that were met, in any slice.
    pub devices: Names,
    /// Of each patient the rows of this slice.
    pub rows: Vec<Vec<Row>>,
}

impl Held {
    /// Reads a slice. `false`, with nothing held, when it is too large.
    pub async fn read(
        &mut self,
        pool: &PgPool,
        slice: Slice,
        question: &Question,
        progress: &Progress,
    ) -> Result<bool, BacktestError> {
        self.rows.iter_mut().for_each(Vec::clear);
        let mut connection = pool.acquire().await?;
        let only = question.only_vital();
        let copy = format!("copy ({}) to stdout (format binary)", slice.sql(question));
        let mut stream = connection.copy_out_raw(&copy).await?;
        let (mut bytes, mut count, mut begun) = (Vec::with_capacity(2 * CHUNK_BYTES), 0, false);
        loop {
            let chunk = stream.next().await.transpose()?;
            let is_end = chunk.is_none();
            bytes.extend_from_slice(&chunk.unwrap_or_default());
            if bytes.len() < CHUNK_BYTES && !is_end {
                continue;
            }
            let mut at = 0;
            if !begun {
                at = header(&bytes)?;
                begun = true;
            }
            let before = count;
            while let Some(length) = self.row(&bytes[at..], only)? {
                at += length;
                count += 1;
            }
            bytes.drain(..at);
            progress.read(count - before)?;
            if count as usize > ROWS_HELD_MAX {
                drop(stream);
                // In the middle of a COPY it is of no use to anybody.
                connection.close_on_drop();
                self.rows.iter_mut().for_each(Vec::clear);
                progress.unread(count);
                return Ok(false);
            }
            if is_end {
                return Ok(true);
            }
        }
    }

    /// Takes one row; how long it was, or `None` when it is not whole yet.
    fn row(&mut self, bytes: &[u8], only: Option<Vital>) -> Result<Option<usize>, BacktestError> {
        let mut fields = Fields { bytes, at: 0 };
        match fields.int16() {
            None => return Ok(None),
            // The end of the COPY.
            Some(-1) => return Ok(None),
            Some(8) => {}
            Some(_) => return Err(BacktestError::Format("a row has eight columns")),
        }
        let Some(whole) = fields.eight() else { return Ok(None) };
        let [patient, device, vital, at, value, position, suspect, quality] = whole;
        let wrong = || BacktestError::Format("a column is not what it should be");
        let int8 = |field: Option<&[u8]>| {
            field.and_then(|f| f.try_into().ok()).map(i64::from_be_bytes).ok_or_else(wrong)
        };
        let patient = self.patients.number(patient.ok_or_else(wrong)?) as usize;
        let row = Row {
            at: int8(at)? + EPOCH_MICROS,
            position: int8(position)?,
            value: f64::from_bits(int8(value)? as u64),
            device: self.devices.number(device.ok_or_else(wrong)?),
            quality: quality.and_then(|f| f.try_into().ok()).map_or(f32::NAN, f32::from_be_bytes),
            vital: vital.map_or(only, vital_of).ok_or_else(wrong)?,
            suspect: suspect == Some(&[1]),
        };
        if self.rows.len() <= patient {
            self.rows.resize_with(patient + 1, Vec::new);
        }
        if let Some(rows) = self.rows.get_mut(patient) {
            rows.push(row);
        }
        Ok(Some(fields.at))
    }
}

impl Progress {
    fn unread(&self, rows: u64) {
        self.done.fetch_sub(rows, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The length of what comes before the rows.
fn header(bytes: &[u8]) -> Result<usize, BacktestError> {
    let wrong = || BacktestError::Format("a COPY does not begin as one");
    let rest = bytes.strip_prefix(SIGNATURE).ok_or_else(wrong)?;
    let extension = rest.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    Ok(SIGNATURE.len() + 8 + extension.ok_or_else(wrong)? as usize)
}

fn vital_of(name: &[u8]) -> Option<Vital> {
    Vital::all().find(|vital| vital.name().as_bytes() == name)
}

/// The fields of a row, one after the other.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Field<'a> = Option<&'a [u8]>;

impl<'a> Fields<'a> {
    fn int16(&mut self) -> Option<i16> {
        let two = self.bytes.get(self.at..self.at + 2)?;
        self.at += 2;
        two.try_into().ok().map(i16::from_be_bytes)
    }

    /// One field, which may be null; `None` when it is not whole.
    fn field(&mut self) -> Option<Field<'a>> {
        let four = self.bytes.get(self.at..self.at + 4)?;
        let length = four.try_into().ok().map(i32::from_be_bytes)?;
        self.at += 4;
        let Ok(length) = usize::try_from(length) else { return Some(None) };
        let field = self.bytes.get(self.at..self.at + length)?;
        self.at += length;
        Some(Some(field))
    }

    fn eight(&mut self) -> Option<[Field<'a>; 8]> {
        let mut all = [None; 8];
        for one in &mut all {
            *one = self.field()?;
        }
        Some(all)
    }
}
