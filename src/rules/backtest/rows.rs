//! Reading the history: narrow rows by binary COPY ([`copy`]).
//!
//! Guarantees that a part of a slice is either held whole or refused, when it has more
//! rows than it may have: then the caller asks for a smaller slice. Does not order
//! rows: PostgreSQL sends them as they lie, which costs it least.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;
use parking_lot::Mutex;
use sqlx::{PgConnection, PgPool};

use super::query::{BacktestError, BacktestQuery};
use super::slice::Pages;
use crate::jobs::JobHandle;
use crate::log::copy::{self, Field, Next};
use crate::vital::Vital;

/// Rows that all readers together hold, at 40 bytes each.
pub const ROWS_HELD_MAX: usize = 4_000_000;

/// Of so many rows one is looked at to find the middle of a slice that was too large.
const SAMPLED: usize = 16;

/// Bytes that are gathered before they are taken apart.
const CHUNK_BYTES: usize = 64 * 1024;

/// A reading, as narrow as it can be.
#[derive(Clone, Copy, Debug)]
pub struct ScannedRow {
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

/// Names and their numbers, the same for everybody who reads.
#[derive(Default)]
pub struct Directory {
    met: Mutex<Met>,
}

#[derive(Default)]
struct Met {
    numbers: HashMap<Box<[u8]>, u32>,
    names: Vec<Arc<str>>,
}

impl Directory {
    fn number(&self, name: &[u8]) -> u32 {
        let mut met = self.met.lock();
        let next = met.names.len() as u32;
        if let Some(number) = met.numbers.get(name) {
            return *number;
        }
        met.numbers.insert(name.into(), next);
        met.names.push(String::from_utf8_lossy(name).into());
        next
    }

    /// The names, each at the place of its number.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.met.lock().names.clone()
    }
}

/// What one reader remembers of a directory, so that it seldom has to ask.
struct Names {
    all: Arc<Directory>,
    known: HashMap<Box<[u8]>, u32>,
    /// Of the row before.
    last: Option<u32>,
    last_name: Vec<u8>,
}

impl Names {
    fn new(all: &Arc<Directory>) -> Names {
        Names { all: all.clone(), known: HashMap::new(), last: None, last_name: Vec::new() }
    }

    fn number(&mut self, name: &[u8]) -> u32 {
        if let Some(last) = self.last.filter(|_| self.last_name == name) {
            return last;
        }
        let number = self.known.get(name).copied().unwrap_or_else(|| {
            let number = self.all.number(name);
            self.known.insert(name.into(), number);
            number
        });
        self.last = Some(number);
        self.last_name.clear();
        self.last_name.extend_from_slice(name);
        number
    }
}

/// The numbers that PostgreSQL knows vitals by in this database.
#[derive(Clone, Debug)]
pub enum Numbers {
    /// None is sent: it is this one.
    Only(Vital),
    /// By what `hashenum` makes of them.
    Hashes(Arc<[(i32, Vital)]>),
}

impl Numbers {
    /// For a question.
    pub async fn of(pool: &PgPool, question: &BacktestQuery) -> Result<Numbers, BacktestError> {
        if let Some(vital) = question.only_vital() {
            return Ok(Numbers::Only(vital));
        }
        let rows: Vec<(i32, String)> =
            sqlx::query_as("select hashenum(v), v::text from unnest(enum_range(null::vital)) as v")
                .fetch_all(pool)
                .await?;
        let known = rows.iter().filter_map(|(hash, name)| Some((*hash, name.parse().ok()?)));
        let hashes: Vec<(i32, Vital)> = known.collect();
        let numbers: HashSet<i32> = rows.iter().map(|(hash, _)| *hash).collect();
        if numbers.len() < rows.len() {
            return Err(BacktestError::Format("two vitals have one number"));
        }
        Ok(Numbers::Hashes(hashes.into()))
    }

    fn vital(&self, field: Field<'_>) -> Option<Vital> {
        match self {
            Numbers::Only(vital) => Some(*vital),
            Numbers::Hashes(all) => {
                let hash = field?.try_into().ok().map(i32::from_be_bytes)?;
                all.iter().find(|(of, _)| *of == hash).map(|(_, vital)| *vital)
            }
        }
    }
}

/// The rows of one part of a slice, by patient.
pub struct ScannedRows {
    patients: Names,
    devices: Names,
    /// How many rows at most, and how many there are.
    most: usize,
    count: usize,
    /// Of each patient, by number, the rows of this part.
    pub rows: Vec<Vec<ScannedRow>>,
}

impl ScannedRows {
    /// Nothing yet; numbers will be those of the directories.
    pub fn new(patients: &Arc<Directory>, devices: &Arc<Directory>, most: usize) -> ScannedRows {
        let (patients, devices) = (Names::new(patients), Names::new(devices));
        ScannedRows { patients, devices, most, count: 0, rows: Vec::new() }
    }

    /// Reads what [`super::slice::Slice::sql`] asks, from these pages. `false` when there
    /// are more rows than may be held.
    pub async fn read(
        &mut self,
        pool: &PgPool,
        sql: &str,
        pages: &[Pages],
        numbers: &Numbers,
        progress: &JobHandle,
    ) -> Result<bool, BacktestError> {
        let mut connection = pool.acquire().await?;
        self.rows.iter_mut().for_each(Vec::clear);
        self.count = 0;
        for piece in pages {
            let statement = format!("copy ({sql} and{}) to stdout (format binary)", piece.sql());
            let whole = self.copy(&mut connection, &statement, numbers, progress).await;
            if !matches!(whole, Ok(true)) {
                // In the middle of a COPY it is of no use to anybody.
                connection.close_on_drop();
                return whole;
            }
        }
        Ok(true)
    }

    async fn copy(
        &mut self,
        connection: &mut PgConnection,
        statement: &str,
        numbers: &Numbers,
        progress: &JobHandle,
    ) -> Result<bool, BacktestError> {
        let mut stream = connection.copy_out_raw(statement).await?;
        let (mut bytes, mut begun) = (Vec::with_capacity(2 * CHUNK_BYTES), false);
        loop {
            let chunk = stream.next().await.transpose()?;
            let is_end = chunk.is_none();
            bytes.extend_from_slice(&chunk.unwrap_or_default());
            if bytes.len() < CHUNK_BYTES && !is_end {
                continue;
            }
            let mut at = 0;
            if !begun {
                at = copy::header(&bytes)?;
                begun = true;
            }
            let before = self.count;
            while let Some(length) = self.row(bytes.get(at..).unwrap_or_default(), numbers)? {
                at += length;
                self.count += 1;
            }
            bytes.drain(..at);
            have_read(progress, (self.count - before) as u64)?;
            let is_room = self.count <= self.most;
            if is_end || !is_room {
                return Ok(is_end && is_room);
            }
        }
    }

    /// Takes one row; how long it was, or `None` when it is not whole yet.
    fn row(&mut self, bytes: &[u8], numbers: &Numbers) -> Result<Option<usize>, BacktestError> {
        let (fields, length) = match copy::row(bytes)? {
            Next::Row(fields, length) => (fields, length),
            Next::Part | Next::End => return Ok(None),
        };
        let [patient, device, vital, at, value, position, suspect, quality] = fields;
        let wrong = || BacktestError::Format("a column is not what it should be");
        let patient = self.patients.number(patient.ok_or_else(wrong)?) as usize;
        let row = ScannedRow {
            at: copy::micros(at)?,
            position: copy::int8(position)?,
            value: f64::from_bits(copy::int8(value)? as u64),
            device: self.devices.number(device.unwrap_or_default()),
            quality: copy::fixed(quality)?.map_or(f32::NAN, f32::from_be_bytes),
            vital: numbers.vital(vital).ok_or_else(wrong)?,
            suspect: suspect == Some(&[1]),
        };
        if self.rows.len() <= patient {
            self.rows.resize_with(patient + 1, Vec::new);
        }
        if let Some(rows) = self.rows.get_mut(patient) {
            rows.push(row);
        }
        Ok(Some(length))
    }
}

/// The middle of the times of what is held.
pub fn middle(held: &[ScannedRows]) -> DateTime<Utc> {
    let rows = held.iter().flat_map(|held| &held.rows).flatten();
    let mut times: Vec<i64> = rows.step_by(SAMPLED).map(|row| row.at).collect();
    let place = times.len() / 2;
    let micros = match times.is_empty() {
        true => 0,
        false => *times.select_nth_unstable(place).1,
    };
    DateTime::UNIX_EPOCH + TimeDelta::microseconds(micros)
}

/// Counts what was read; an error when it is not to go on.
fn have_read(progress: &JobHandle, rows: u64) -> Result<(), BacktestError> {
    progress.done.fetch_add(rows, Ordering::Relaxed);
    if progress.stop.is_cancelled() { Err(BacktestError::Cancelled) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_give_a_name_the_same_number() {
        let all = Arc::new(Directory::default());
        let (mut one, mut other) = (Names::new(&all), Names::new(&all));
        assert_eq!((one.number(b"a"), other.number(b"b"), one.number(b"b")), (0, 1, 1));
        assert_eq!((other.number(b"a"), other.number(b"a")), (0, 0));
        assert_eq!(all.names(), ["a".into(), "b".into()]);
    }
}
