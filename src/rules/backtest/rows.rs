//! Reading the history: narrow rows by binary COPY ([`copy`]).
//!
//! Guarantees that a part of a slice is either held whole or refused, when it has more
//! rows than it may have: then the caller asks for a smaller slice. Does not order
//! rows: PostgreSQL sends them as they lie, which costs it least.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;
use sqlx::{PgConnection, PgPool};

use super::query::{BacktestError, BacktestQuery};
use super::slice::Pages;
use crate::jobs::JobHandle;
use crate::log::copy::{self, Next};
use crate::vital::Vital;

/// Rows that all readers together hold, at 40 bytes each.
pub const ROWS_HELD_MAX: usize = 4_000_000;

/// Of so many rows one is looked at to find the middle of a slice that was too large.
const SAMPLED: usize = 16;

/// Numbers of series that a statement names: PostgreSQL looks at each while it plans.
const NUMBERS_ASKED_MAX: usize = 20_000;

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

/// The series that a question looks at, and the names behind them. What is made while the
/// question is answered is not in it, nor in the answer.
#[derive(Debug, Default)]
pub struct Directory {
    /// Of each shard, at the place of its number. Numbers follow each other.
    series: Vec<Vec<Option<Measured>>>,
    /// Each at the place of its number.
    pub patients: Vec<Arc<str>>,
    /// The same.
    pub devices: Vec<Arc<str>>,
}

/// What a series measures.
#[derive(Clone, Copy, Debug)]
struct Measured {
    patient: u32,
    device: u32,
    vital: Vital,
}

impl Directory {
    /// For a question.
    pub async fn of(
        pool: &PgPool,
        question: &BacktestQuery,
        shards: impl Iterator<Item = i16>,
    ) -> Result<Directory, BacktestError> {
        let vitals: Vec<&str> = question.vitals().iter().map(|vital| vital.name()).collect();
        let mut rows = sqlx::query_as(
            "select shard, series, patient_id, source_id, vital::text from series \
             where shard = any ($1) and tenant = $2 and vital = any ($3::text[]::vital[])",
        )
        .bind(shards.collect::<Vec<_>>())
        .bind(&question.tenant)
        .bind(vitals)
        .fetch(pool);
        let (mut directory, mut patients, mut devices) =
            (Directory::default(), HashMap::new(), HashMap::new());
        while let Some(row) = rows.next().await.transpose()? {
            let (shard, series, patient, device, vital): (i16, i32, String, String, String) = row;
            let vital = vital.parse().map_err(|_| BacktestError::Format("an unknown vital"))?;
            let measured = Measured {
                patient: number(&mut patients, &mut directory.patients, patient),
                device: number(&mut devices, &mut directory.devices, device),
                vital,
            };
            directory.put(shard, series, measured);
        }
        Ok(directory)
    }

    fn put(&mut self, shard: i16, series: i32, measured: Measured) {
        let (Ok(shard), Ok(at)) = (usize::try_from(shard), usize::try_from(series)) else { return };
        if self.series.len() <= shard {
            self.series.resize_with(shard + 1, Vec::new);
        }
        if let Some(of_shard) = self.series.get_mut(shard) {
            if of_shard.len() <= at {
                of_shard.resize(at + 1, None);
            }
            if let Some(place) = of_shard.get_mut(at) {
                *place = Some(measured);
            }
        }
    }

    fn get(&self, shard: i16, series: i32) -> Option<Measured> {
        let of_shard = self.series.get(usize::try_from(shard).ok()?)?;
        *of_shard.get(usize::try_from(series).ok()?)?
    }

    /// The numbers of each shard, as SQL compares a reading's with them; `None` when they
    /// are too many for a statement.
    pub fn condition(&self) -> Option<String> {
        let all = self.series.iter().enumerate().map(|(shard, of_shard)| {
            let known = of_shard.iter().enumerate().filter(|(_, series)| series.is_some());
            (shard, known.map(|(series, _)| series.to_string()).collect::<Vec<_>>())
        });
        let all: Vec<_> = all.filter(|(_, numbers)| !numbers.is_empty()).collect();
        if all.iter().map(|(_, numbers)| numbers.len()).sum::<usize>() > NUMBERS_ASKED_MAX {
            return None;
        }
        let of_shard = |(shard, numbers): &(usize, Vec<String>)| {
            format!("r.shard = {shard} and r.series = any ('{{{}}}')", numbers.join(","))
        };
        let conditions: Vec<String> = all.iter().map(of_shard).collect();
        Some(if conditions.is_empty() { "false".to_owned() } else { conditions.join(" or ") })
    }
}

/// A question's series, as a condition on readings `r`: by their numbers, so that each row is
/// looked up in a table of them, or where they are too many by a join. COPY takes no
/// parameters, so the tenant is written as a literal.
pub fn which(
    question: &BacktestQuery,
    directory: &Directory,
    shards: impl Iterator<Item = i16>,
) -> String {
    directory.condition().unwrap_or_else(|| {
        let vitals = question.vitals().into_iter().map(|vital| format!("'{}'", vital.name()));
        format!(
            "r.shard = any ('{{{}}}') and exists (select from series s where s.shard = r.shard \
             and s.series = r.series and s.tenant = {} and s.vital in ({}))",
            shards.map(|shard| shard.to_string()).collect::<Vec<_>>().join(","),
            literal(&question.tenant),
            vitals.collect::<Vec<_>>().join(", "),
        )
    })
}

/// A text as SQL reads it, whatever is in it and whatever a session's settings are.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// The number of a name; the next one if it is new.
fn number(met: &mut HashMap<String, u32>, names: &mut Vec<Arc<str>>, name: String) -> u32 {
    if let Some(number) = met.get(&name) {
        return *number;
    }
    let number = names.len() as u32;
    names.push((&*name).into());
    met.insert(name, number);
    number
}

/// The rows of one part of a slice, by patient.
pub struct ScannedRows {
    directory: Arc<Directory>,
    /// How many rows at most, and how many there are.
    most: usize,
    count: usize,
    /// Of each patient, by number, the rows of this part.
    pub rows: Vec<Vec<ScannedRow>>,
}

impl ScannedRows {
    /// Nothing yet; numbers will be those of the directory.
    pub fn new(directory: &Arc<Directory>, most: usize) -> ScannedRows {
        let rows = vec![Vec::new(); directory.patients.len()];
        ScannedRows { directory: directory.clone(), most, count: 0, rows }
    }

    /// Reads what [`super::slice::Slice::sql`] asks, from these pages. `false` when there
    /// are more rows than may be held.
    pub async fn read(
        &mut self,
        pool: &PgPool,
        sql: &str,
        pages: &[Pages],
        progress: &JobHandle,
    ) -> Result<bool, BacktestError> {
        let mut connection = pool.acquire().await?;
        self.rows.iter_mut().for_each(Vec::clear);
        self.count = 0;
        for piece in pages {
            let statement = format!("copy ({sql} and{}) to stdout (format binary)", piece.sql());
            let whole = self.copy(&mut connection, &statement, progress).await;
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
            while let Some(length) = self.row(bytes.get(at..).unwrap_or_default())? {
                at += length;
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
    fn row(&mut self, bytes: &[u8]) -> Result<Option<usize>, BacktestError> {
        let (fields, length) = match copy::row(bytes)? {
            Next::Row(fields, length) => (fields, length),
            Next::Part | Next::End => return Ok(None),
        };
        let [shard, series, at, value, position, suspect, quality] = fields;
        let wrong = || BacktestError::Format("a column is not what it should be");
        let shard = copy::fixed(shard)?.map(i16::from_be_bytes).ok_or_else(wrong)?;
        let series = copy::fixed(series)?.map(i32::from_be_bytes).ok_or_else(wrong)?;
        let Some(of) = self.directory.get(shard, series) else { return Ok(Some(length)) };
        let row = ScannedRow {
            at: copy::micros(at)?,
            position: copy::int8(position)?,
            value: f64::from_bits(copy::int8(value)? as u64),
            device: of.device,
            quality: copy::fixed(quality)?.map_or(f32::NAN, f32::from_be_bytes),
            vital: of.vital,
            suspect: suspect == Some(&[1]),
        };
        if let Some(rows) = self.rows.get_mut(of.patient as usize) {
            rows.push(row);
            self.count += 1;
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
    fn a_series_is_found_by_its_shard_and_number_and_what_is_unknown_is_not() {
        let mut directory = Directory::default();
        let of = |patient| Measured { patient, device: 0, vital: Vital::HeartRate };
        directory.put(1, 3, of(7));
        directory.put(0, 3, of(8));
        let patient = |shard, series| directory.get(shard, series).map(|of| of.patient);
        assert_eq!((patient(1, 3), patient(0, 3)), (Some(7), Some(8)));
        for (shard, series) in [(1, 2), (1, 4), (2, 3), (-1, 3), (1, -3)] {
            assert_eq!(patient(shard, series), None, "{shard} {series}");
        }
    }

    #[test]
    fn a_statement_names_the_numbers_of_each_shard_unless_they_are_too_many() {
        let mut directory = Directory::default();
        assert_eq!(directory.condition().as_deref(), Some("false"));
        let of = Measured { patient: 0, device: 0, vital: Vital::HeartRate };
        for (shard, series) in [(0, 3), (0, 5), (2, 1)] {
            directory.put(shard, series, of);
        }
        let condition = "r.shard = 0 and r.series = any ('{3,5}') or \
                         r.shard = 2 and r.series = any ('{1}')";
        assert_eq!(directory.condition().as_deref(), Some(condition));
        (0..20_000).for_each(|series| directory.put(1, series, of));
        assert_eq!(directory.condition(), None);
    }

    #[test]
    fn a_tenant_is_a_literal_whatever_it_is_called() {
        assert_eq!(literal("ward-4b"), "E'ward-4b'");
        assert_eq!(literal("zz' or 'a'='a"), "E'zz'' or ''a''=''a'");
        assert_eq!(literal("\\' or true --"), "E'\\\\'' or true --'");
    }
}
