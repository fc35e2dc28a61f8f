//! Reading the history: narrow rows by binary COPY, decoded by hand.
//!
//! Guarantees that a part of a slice is either held whole or refused, when it has more
//! rows than it may have: then the caller asks for a smaller slice. Does not order
//! rows: PostgreSQL sends them as they lie, which costs it least.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::StreamExt;
use sqlx::{PgConnection, PgPool};

use super::{BacktestError, Progress, Question};
use crate::log::partition::Span;
use crate::vital::Vital;

/// Rows that all readers together hold, at 40 bytes each.
pub const ROWS_HELD_MAX: usize = 4_000_000;

/// Bytes that are gathered before they are taken apart.
const CHUNK_BYTES: usize = 64 * 1024;

/// PostgreSQL counts microseconds from 2000 on.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Before it all of time is one partition.
const FIRST_SPAN: DateTime<Utc> = DateTime::from_timestamp_micros(EPOCH_MICROS).unwrap();

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
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.met.lock().unwrap_or_else(PoisonError::into_inner).names.clone()
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

/// A stretch of time within one partition of the log.
#[derive(Clone, Debug)]
pub struct Slice {
    table: String,
    /// Pages of it.
    blocks: i64,
    /// What the partition can hold.
    whole: (DateTime<Utc>, DateTime<Utc>),
    /// Measured from here on.
    from: DateTime<Utc>,
    /// Until here, not included.
    to: DateTime<Utc>,
}

/// Pages of a table, as PostgreSQL numbers them.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    from: i64,
    /// Not included. The last part has no end, for the table grows.
    to: Option<i64>,
}

impl Slice {
    /// A question's slices: the partitions that it reaches into, oldest first.
    pub async fn all(pool: &PgPool, question: &Question) -> Result<Vec<Slice>, sqlx::Error> {
        let tables: Vec<(String, i64)> =
            sqlx::query_as(include_str!("tables.sql")).fetch_all(pool).await?;
        let slice = |(table, blocks): (String, i64)| {
            let whole = match Span::of_table(&table) {
                Some(span) => (span.since(), span.until()),
                None => (DateTime::<Utc>::MIN_UTC, FIRST_SPAN),
            };
            let (from, to) = (whole.0.max(question.from), whole.1.min(question.to));
            (from < to && blocks > 0).then_some(Slice { table, blocks, whole, from, to })
        };
        let mut slices: Vec<Slice> = tables.into_iter().filter_map(slice).collect();
        slices.sort_by_key(|slice| slice.from);
        Ok(slices)
    }

    /// Both halves.
    pub fn halves(self) -> [Slice; 2] {
        let middle = self.from + (self.to - self.from) / 2;
        [Slice { to: middle, ..self.clone() }, Slice { from: middle, ..self }]
    }

    /// Its pages in as many parts.
    pub fn parts(&self, parts: usize) -> Vec<Pages> {
        let of = |n: usize| self.blocks * n as i64 / parts as i64;
        let part = |n| Pages { from: of(n), to: (n + 1 < parts).then(|| of(n + 1)) };
        (0..parts).map(part).collect()
    }

    /// What is asked of it. Everything in it is ours: ids are FHIR ids and hold no quote.
    ///
    /// Asks the partition itself and not the log, so that what its bounds say already is
    /// not compared again for every row. The vital comes first: it is what most rows
    /// fall by; and only readings have one, so their type is not asked for. The shards come last, and are all there are: they let a small tenant of
    /// a large log be found by the index.
    ///
    /// What is known before or not needed is not sent: putting a column into words costs
    /// a fifth of a read. A vital is sent as the number that [`Numbers`] knows it by.
    pub fn sql(
        &self,
        question: &Question,
        names_devices: bool,
        shards: impl Iterator<Item = i16>,
    ) -> String {
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let vitals: Vec<String> =
            question.vitals().iter().map(|vital| format!("'{}'", vital.name())).collect();
        let is_one = question.only_vital().is_some();
        let vital = if is_one { "null" } else { "hashenum(vital)" };
        let of_devices = question.looks_at_devices();
        let device = if names_devices || of_devices { "source_id" } else { "null" };
        let (suspect, sent) =
            if of_devices { ("", "suspect") } else { (" and not suspect", "null") };
        let mut sql = format!(
            "select patient_id, {device}, {vital}, occurred_at, value, position, {sent}, quality \
             from {} where vital in ({}){suspect} and tenant = '{}' and shard = any ('{{{}}}')",
            self.table,
            vitals.join(", "),
            question.tenant,
            shards.map(|shard| shard.to_string()).collect::<Vec<_>>().join(",")
        );
        if self.from > self.whole.0 {
            sql += &format!(" and occurred_at >= '{}'", time(self.from));
        }
        if self.to < self.whole.1 {
            sql += &format!(" and occurred_at < '{}'", time(self.to));
        }
        sql
    }
}

impl Pages {
    fn sql(self) -> String {
        let to = self.to.map_or(String::new(), |to| format!(" and ctid < '({to},0)'"));
        format!(" and ctid >= '({},0)'{to}", self.from)
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
    pub async fn of(pool: &PgPool, question: &Question) -> Result<Numbers, BacktestError> {
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
pub struct Held {
    patients: Names,
    devices: Names,
    /// How many rows at most.
    most: usize,
    /// Of each patient, by number, the rows of this part.
    pub rows: Vec<Vec<Row>>,
}

impl Held {
    /// Nothing yet; numbers will be those of the directories.
    pub fn new(patients: &Arc<Directory>, devices: &Arc<Directory>, most: usize) -> Held {
        let (patients, devices) = (Names::new(patients), Names::new(devices));
        Held { patients, devices, most, rows: Vec::new() }
    }

    /// Reads what [`Slice::sql`] asks, from these pages. `false` when there are more rows
    /// than may be held.
    pub async fn read(
        &mut self,
        pool: &PgPool,
        sql: &str,
        pages: Pages,
        numbers: &Numbers,
        progress: &Progress,
    ) -> Result<bool, BacktestError> {
        let mut connection = pool.acquire().await?;
        let copy = format!("copy ({sql}{}) to stdout (format binary)", pages.sql());
        self.rows.iter_mut().for_each(Vec::clear);
        let whole = self.copy(&mut connection, &copy, numbers, progress).await;
        if !matches!(whole, Ok(true)) {
            // In the middle of a COPY it is of no use to anybody.
            connection.close_on_drop();
        }
        whole
    }

    async fn copy(
        &mut self,
        connection: &mut PgConnection,
        copy: &str,
        numbers: &Numbers,
        progress: &Progress,
    ) -> Result<bool, BacktestError> {
        let mut stream = connection.copy_out_raw(copy).await?;
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
            while let Some(length) = self.row(bytes.get(at..).unwrap_or_default(), numbers)? {
                at += length;
                count += 1;
            }
            bytes.drain(..at);
            progress.read(count - before)?;
            if is_end || count as usize > self.most {
                return Ok(is_end);
            }
        }
    }

    /// Takes one row; how long it was, or `None` when it is not whole yet.
    fn row(&mut self, bytes: &[u8], numbers: &Numbers) -> Result<Option<usize>, BacktestError> {
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
            device: self.devices.number(device.unwrap_or_default()),
            quality: quality.and_then(|f| f.try_into().ok()).map_or(f32::NAN, f32::from_be_bytes),
            vital: numbers.vital(vital).ok_or_else(wrong)?,
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

/// The length of what comes before the rows.
fn header(bytes: &[u8]) -> Result<usize, BacktestError> {
    let wrong = || BacktestError::Format("a COPY does not begin as one");
    let rest = bytes.strip_prefix(SIGNATURE).ok_or_else(wrong)?;
    let extension = rest.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    Ok(SIGNATURE.len() + 8 + extension.ok_or_else(wrong)? as usize)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(blocks: i64) -> Slice {
        let (from, to) = (FIRST_SPAN, FIRST_SPAN + chrono::TimeDelta::days(31));
        Slice { table: "event_2000_01".to_owned(), blocks, whole: (from, to), from, to }
    }

    #[test]
    fn parts_hold_every_page_once_and_what_is_added_meanwhile() {
        for (blocks, parts) in [(1, 1), (1, 4), (7, 2), (100, 8)] {
            let all = slice(blocks).parts(parts);
            assert_eq!((all.len(), all[0].from), (parts, 0));
            assert!(all.windows(2).all(|two| two[0].to == Some(two[1].from)), "{all:?}");
            assert!(all[parts - 1].to.is_none() && all[parts - 1].from <= blocks);
        }
    }

    #[test]
    fn halves_meet_and_only_inner_bounds_are_compared() {
        let question = Question {
            tenant: "ward".to_owned(),
            from: FIRST_SPAN,
            to: DateTime::<Utc>::MAX_UTC,
            rules: Vec::new(),
            keeps_times: false,
        };
        let [first, second] = slice(1).halves();
        assert_eq!(first.to, second.from);
        let (first, second) = (first.sql(&question, true, 0..1), second.sql(&question, true, 0..1));
        assert!(first.ends_with(" and occurred_at < '2000-01-16T12:00:00.000000Z'"), "{first}");
        assert!(second.ends_with(" and occurred_at >= '2000-01-16T12:00:00.000000Z'"), "{second}");
        assert!(!slice(1).sql(&question, true, 0..1).contains("occurred_at >="));
    }

    #[test]
    fn readers_give_a_name_the_same_number() {
        let all = Arc::new(Directory::default());
        let (mut one, mut other) = (Names::new(&all), Names::new(&all));
        assert_eq!((one.number(b"a"), other.number(b"b"), one.number(b"b")), (0, 1, 1));
        assert_eq!((other.number(b"a"), other.number(b"a")), (0, 0));
        assert_eq!(all.names(), ["a".into(), "b".into()]);
    }
}
