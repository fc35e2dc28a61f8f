//! Reading the history: narrow rows by binary COPY, decoded by hand.
//!
//! Guarantees that a part of a slice is either held whole or refused, when it has more
//! rows than it may have: then the caller asks for a smaller slice. Does not order
//! rows: PostgreSQL sends them as they lie, which costs it least.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::{BacktestError, Progress, Question};
use crate::log::partition::Span;
use crate::vital::Vital;

/// Rows that all readers together hold, at 40 bytes each.
pub const ROWS_HELD_MAX: usize = 4_000_000;

/// A shorter slice is not halved because of an expectation.
const SLICE_MIN: TimeDelta = TimeDelta::seconds(1);

/// Pages of which it is looked up which times they hold, 8 MB.
const ZONE_BLOCKS: i64 = 1024;

/// Of so many rows one is looked at to find the middle of a slice that was too large.
const SAMPLED: usize = 16;

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
    /// Which times lie where, once somebody has looked.
    zones: Option<Arc<[Zone]>>,
    /// What the partition can hold.
    whole: (DateTime<Utc>, DateTime<Utc>),
    /// Measured from here on.
    from: DateTime<Utc>,
    /// Until here, not included.
    to: DateTime<Utc>,
}

/// Pages of a table, as PostgreSQL numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    from: i64,
    /// Not included. The last part has no end, for the table grows.
    to: Option<i64>,
}

/// Pages with the times of what they held when somebody looked.
#[derive(Clone, Copy, Debug)]
struct Zone {
    pages: Pages,
    /// The first and the last, if there was anything. What has no end is always read.
    times: Option<(DateTime<Utc>, DateTime<Utc>)>,
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
            (from < to && blocks > 0).then_some(Slice {
                table,
                blocks,
                zones: None,
                whole,
                from,
                to,
            })
        };
        let mut slices: Vec<Slice> = tables.into_iter().filter_map(slice).collect();
        slices.sort_by_key(|slice| slice.from);
        Ok(slices)
    }

    /// Both halves; `None` when it is too short for that.
    pub fn halves(&self) -> Option<[Slice; 2]> {
        let length = self.to - self.from;
        if length < SLICE_MIN { None } else { self.cut(self.from + length / 2) }
    }

    /// What is before a moment and what is not; `None` when that is all on one side.
    pub fn cut(&self, at: DateTime<Utc>) -> Option<[Slice; 2]> {
        let parts = [Slice { to: at, ..self.clone() }, Slice { from: at, ..self.clone() }];
        (self.from < at && at < self.to).then_some(parts)
    }

    /// Its first microsecond, and what is after it: most of it was measured then.
    pub fn first_moment(&self) -> Option<[Slice; 2]> {
        self.cut(self.from + TimeDelta::microseconds(1))
    }

    /// How many rows PostgreSQL expects.
    pub async fn estimate(
        &self,
        pool: &PgPool,
        question: &Question,
        shards: impl Iterator<Item = i16>,
    ) -> Result<u64, sqlx::Error> {
        let sql = format!("explain (format json) {}", self.sql(question, false, shards));
        let plan: Value = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await?;
        Ok(plan.pointer("/0/Plan/Plan Rows").and_then(Value::as_u64).unwrap_or_default())
    }

    /// Looks which times lie in which pages, so that each of its parts is read where it is
    /// and not everywhere: readings come mostly in the order of time.
    pub async fn look_where(&mut self, pool: &PgPool, at_once: usize) -> Result<(), sqlx::Error> {
        let zones = self.parts(usize::try_from(self.blocks / ZONE_BLOCKS).unwrap_or(0) + 1);
        let looks = zones.into_iter().flatten().map(|pages| {
            let sql = format!(
                "select min(occurred_at), max(occurred_at) from {} where{}",
                self.table,
                pages.sql()
            );
            async move {
                let times: (Option<DateTime<Utc>>, Option<DateTime<Utc>>) =
                    sqlx::query_as(AssertSqlSafe(sql)).fetch_one(pool).await?;
                Ok::<_, sqlx::Error>(Zone { pages, times: times.0.zip(times.1) })
            }
        });
        let zones = futures_util::stream::iter(looks).buffered(at_once);
        self.zones = Some(zones.try_collect::<Vec<Zone>>().await?.into());
        Ok(())
    }

    /// Its pages in as many parts, each in as few pieces as may be.
    pub fn parts(&self, parts: usize) -> Vec<Vec<Pages>> {
        let Some(zones) = &self.zones else {
            let of = |n: usize| self.blocks * n as i64 / parts as i64;
            let part = |n| Pages { from: of(n), to: (n + 1 < parts).then(|| of(n + 1)) };
            return (0..parts).map(|n| vec![part(n)]).collect();
        };
        let is_ours = |zone: &&Zone| {
            zone.pages.to.is_none()
                || zone.times.is_some_and(|(first, last)| first < self.to && self.from <= last)
        };
        let ours: Vec<Pages> = zones.iter().filter(is_ours).map(|zone| zone.pages).collect();
        let of = |n: usize| ours.len() * n / parts;
        let part = |n| joined(ours.get(of(n)..of(n + 1)).unwrap_or_default());
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
        format!(" ctid >= '({},0)'{to}", self.from)
    }
}

/// What lies side by side as one.
fn joined(pages: &[Pages]) -> Vec<Pages> {
    let mut all: Vec<Pages> = Vec::new();
    for next in pages {
        match all.last_mut() {
            Some(last) if last.to == Some(next.from) => last.to = next.to,
            _ => all.push(*next),
        }
    }
    all
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
    /// How many rows at most, and how many there are.
    most: usize,
    count: usize,
    /// Of each patient, by number, the rows of this part.
    pub rows: Vec<Vec<Row>>,
}

impl Held {
    /// Nothing yet; numbers will be those of the directories.
    pub fn new(patients: &Arc<Directory>, devices: &Arc<Directory>, most: usize) -> Held {
        let (patients, devices) = (Names::new(patients), Names::new(devices));
        Held { patients, devices, most, count: 0, rows: Vec::new() }
    }

    /// Reads what [`Slice::sql`] asks, from these pages. `false` when there are more rows
    /// than may be held.
    pub async fn read(
        &mut self,
        pool: &PgPool,
        sql: &str,
        pages: &[Pages],
        numbers: &Numbers,
        progress: &Progress,
    ) -> Result<bool, BacktestError> {
        let mut connection = pool.acquire().await?;
        self.rows.iter_mut().for_each(Vec::clear);
        self.count = 0;
        for piece in pages {
            let copy = format!("copy ({sql} and{}) to stdout (format binary)", piece.sql());
            let whole = self.copy(&mut connection, &copy, numbers, progress).await;
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
        copy: &str,
        numbers: &Numbers,
        progress: &Progress,
    ) -> Result<bool, BacktestError> {
        let mut stream = connection.copy_out_raw(copy).await?;
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
                at = header(&bytes)?;
                begun = true;
            }
            let before = self.count;
            while let Some(length) = self.row(bytes.get(at..).unwrap_or_default(), numbers)? {
                at += length;
                self.count += 1;
            }
            bytes.drain(..at);
            progress.read((self.count - before) as u64)?;
            let is_room = self.count <= self.most;
            if is_end || !is_room {
                return Ok(is_end && is_room);
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

/// The middle of the times of what is held.
pub fn middle(held: &[Held]) -> DateTime<Utc> {
    let rows = held.iter().flat_map(|held| &held.rows).flatten();
    let mut times: Vec<i64> = rows.step_by(SAMPLED).map(|row| row.at).collect();
    let place = times.len() / 2;
    let micros = match times.is_empty() {
        true => 0,
        false => *times.select_nth_unstable(place).1,
    };
    DateTime::UNIX_EPOCH + TimeDelta::microseconds(micros)
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
        let (from, to) = (FIRST_SPAN, FIRST_SPAN + TimeDelta::days(31));
        Slice {
            table: "event_2000_01".to_owned(),
            blocks,
            zones: None,
            whole: (from, to),
            from,
            to,
        }
    }

    #[test]
    fn a_part_of_the_time_is_read_where_it_lies_and_at_the_tables_end() {
        let day = |n| FIRST_SPAN + TimeDelta::days(n);
        let zone = |from, to, times| Zone { pages: Pages { from, to }, times };
        let zones = [
            zone(0, Some(10), Some((day(0), day(5)))),
            zone(10, Some(20), None),
            zone(20, Some(30), Some((day(4), day(9)))),
            zone(30, Some(40), Some((day(8), day(12)))),
            zone(40, None, Some((day(12), day(13)))),
        ];
        let zoned = Slice { zones: Some(zones.into()), ..slice(45) };
        let [first, second] = zoned.cut(day(8)).unwrap();
        let pages = |from, to| Pages { from, to };
        assert_eq!(
            first.parts(1),
            [vec![pages(0, Some(10)), pages(20, Some(30)), pages(40, None)]]
        );
        assert_eq!(second.parts(1), [vec![pages(20, None)]]);
        assert_eq!(second.parts(2), [vec![pages(20, Some(30))], vec![pages(30, None)]]);
        assert_eq!(second.parts(9).concat().len(), 3);
        assert!(zoned.cut(day(0)).is_none() && zoned.cut(day(31)).is_none());
        assert!(zoned.cut(day(0) + TimeDelta::milliseconds(900)).unwrap()[0].halves().is_none());
    }

    #[test]
    fn parts_hold_every_page_once_and_what_is_added_meanwhile() {
        for (blocks, parts) in [(1, 1), (1, 4), (7, 2), (100, 8)] {
            let all = slice(blocks).parts(parts);
            let all = all.concat();
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
        let [first, second] = slice(1).halves().unwrap();
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
