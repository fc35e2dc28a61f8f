//! A patient's events at the rate at which PostgreSQL hands them out.
//!
//! Guarantees one snapshot of the log, the order of [`super::replay`], and constant
//! memory: rows are read from the connection as they come and handed on one by one.
//! Does not pause: whoever takes them slowly keeps a connection and a snapshot, so this
//! is for commands and not for requests.
//!
//! By `COPY` in its binary form ([`copy`]).

use std::collections::HashMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use sqlx::PgConnection;

use super::END_OF_TIME;
use super::reach::Unanswered;
use super::replay::{ReplayedRange, check};
use crate::event::{Event, READING, Recorded};
use crate::log::Log;
use crate::log::copy::{self, BadCopy, Field, Next};
use crate::log::partition::attached;
use crate::vital::Vital;
use crate::wire::{Context, Number, Opinion, Quality, Reading, Time};

/// Of [`statement`].
const COLUMNS: usize = 10;

/// One event, as it lies in what PostgreSQL sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExportRow<'a> {
    /// As in [`Recorded`].
    pub position: i64,
    /// In microseconds since 1970.
    pub recorded_at: i64,
    /// In microseconds since 1970.
    pub occurred_at: i64,
    /// What follows is as in [`Event`].
    pub kind: &'a str,
    /// Of a reading.
    pub vital: Option<Vital>,
    /// Of a reading.
    pub value: Option<f64>,
    /// Of a reading.
    pub quality: Option<f32>,
    /// Of a reading.
    pub suspect: bool,
    /// Who says so.
    pub source_id: &'a str,
    /// JSON text.
    pub data: Option<&'a str>,
}

fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(END_OF_TIME)
}

impl<'a> ExportRow<'a> {
    /// The reading that it is, as the wire has it. Of what is at hand: an event of its own
    /// would be copied for each.
    pub fn reading(&self, patient_id: &'a str) -> Option<Reading<'a>> {
        let (vital, value) = (self.vital?, self.value?);
        (self.kind == READING).then(|| Reading {
            patient_id: patient_id.into(),
            device_id: self.source_id.into(),
            vital,
            value: Number(value),
            unit: vital.unit().into(),
            quality: Quality::of(self.suspect),
            measured_at: Time(time(self.occurred_at)),
            recorded_at: Time(time(self.recorded_at)),
            device_quality: self.quality.map(Opinion),
            context: self.data.map(Context::new),
        })
    }

    /// The same as an event of its own.
    pub fn to_recorded(self, shard: i16, tenant: &str, patient_id: &str) -> Recorded {
        Recorded {
            shard,
            position: self.position,
            recorded_at: time(self.recorded_at),
            event: Event {
                tenant: tenant.into(),
                patient_id: patient_id.to_owned(),
                kind: self.kind.to_owned(),
                vital: self.vital,
                value: self.value,
                quality: self.quality,
                suspect: self.suspect,
                occurred_at: time(self.occurred_at),
                source_id: self.source_id.to_owned(),
                data: self.data.map(str::to_owned),
            },
        }
    }
}

/// Why an export ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no answer.
    #[error("{0}")]
    Unanswered(#[from] Unanswered),
    /// Whoever takes the rows wants no more.
    #[error("{0}")]
    Taken(#[from] std::io::Error),
}

impl From<sqlx::Error> for ExportError {
    fn from(error: sqlx::Error) -> ExportError {
        ExportError::Unanswered(error.into())
    }
}

/// Hands every event of a patient on, in order.
pub async fn export(
    log: &Log,
    tenant: &str,
    patient_id: &str,
    range: &ReplayedRange,
    mut each: impl FnMut(ExportRow<'_>) -> std::io::Result<()>,
) -> Result<(), ExportError> {
    let shard = log.shard_of(tenant, patient_id);
    let mut range = range.clone();
    if let Some(known_at) = range.known_at {
        range.known_at = Some(log.settle(shard, known_at).await?);
    }
    let mut tx = log.pool().begin_with("begin isolation level repeatable read read only").await?;
    // By partition: each has a plan of its own, and rows come at once. Between them they
    // leave no gap, whatever partitions are made meanwhile.
    let series = series(&mut tx, shard, tenant, patient_id).await?;
    let spans = attached(&mut *tx).await?;
    let cuts = spans.into_iter().map(|span| span.since());
    let mut cuts: Vec<_> = cuts.filter(|cut| range.from < *cut && *cut < range.to).collect();
    cuts.push(range.to);
    let mut from = range.from;
    for to in cuts {
        let part = ReplayedRange { from, to, ..range.clone() };
        let statement = statement(shard, tenant, patient_id, &series.numbers(|_| true), &part);
        copy_part(&mut tx, &statement, &series, &mut each).await?;
        from = to;
    }
    tx.rollback().await?;
    // A month that was archived before the snapshot has left only what it keeps.
    check(log, tenant, patient_id, range).await?;
    Ok(())
}

async fn copy_part(
    connection: &mut PgConnection,
    statement: &str,
    series: &PatientSeries,
    each: &mut impl FnMut(ExportRow<'_>) -> std::io::Result<()>,
) -> Result<(), ExportError> {
    let mut rows = connection.copy_out_raw(statement).await?;
    let mut begun = false;
    while let Some(message) = rows.next().await {
        let message: Bytes = message?;
        let mut rest = &*message;
        if !begun {
            rest = rest.get(copy::header(rest).map_err(sqlx::Error::from)?..).unwrap_or_default();
            begun = true;
        }
        // PostgreSQL sends a row a message; nothing here relies on it being only one.
        while !rest.is_empty() {
            match copy::row(rest).map_err(sqlx::Error::from)? {
                Next::Row(fields, length) => {
                    each(row(fields, series)?)?;
                    rest = rest.get(length..).unwrap_or_default();
                }
                Next::End => break,
                Next::Part => return Err(broken().into()),
            }
        }
    }
    Ok(())
}

/// The series of a patient, in the order of (vital, device).
pub(super) struct PatientSeries {
    measured: Vec<(i32, Measured)>,
    /// By number, the place among these.
    places: HashMap<i32, usize>,
}

/// What a series measures, and by what.
pub(super) struct Measured {
    pub(super) vital: Vital,
    pub(super) source_id: String,
}

impl PatientSeries {
    /// The numbers of those that are wanted, as SQL reads them.
    pub(super) fn numbers(&self, is_wanted: impl Fn(&Measured) -> bool) -> String {
        let wanted = self.measured.iter().filter(|(_, of)| is_wanted(of));
        let numbers: Vec<String> = wanted.map(|(number, _)| number.to_string()).collect();
        format!("'{{{}}}'::integer[]", numbers.join(","))
    }

    fn get(&self, number: i32) -> Option<&Measured> {
        self.measured.get(*self.places.get(&number)?).map(|(_, of)| of)
    }
}

pub(super) async fn series(
    connection: &mut PgConnection,
    shard: i16,
    tenant: &str,
    patient_id: &str,
) -> Result<PatientSeries, sqlx::Error> {
    let rows: Vec<(i32, String, String)> = sqlx::query_as(
        "select series, vital::text, source_id from series \
         where shard = $1 and tenant = $2 and patient_id = $3",
    )
    .bind(shard)
    .bind(tenant)
    .bind(patient_id)
    .fetch_all(connection)
    .await?;
    let measured = |(series, vital, source_id): (i32, String, String)| {
        let vital = vital.parse().map_err(|_| broken())?;
        Ok::<_, sqlx::Error>((series, Measured { vital, source_id }))
    };
    let mut measured = rows.into_iter().map(measured).collect::<Result<Vec<_>, _>>()?;
    measured.sort_by(|(_, a), (_, b)| (a.vital, &a.source_id).cmp(&(b.vital, &b.source_id)));
    let places = measured.iter().enumerate().map(|(place, (number, _))| (*number, place)).collect();
    Ok(PatientSeries { measured, places })
}

/// `COPY` takes no parameters: times, numbers and quoted ids are written into it.
///
/// Sorted by PostgreSQL: to merge the series' own orders by the natural key took twice as
/// long, because it reads the table in the index's order and not in its own.
fn statement(
    shard: i16,
    tenant: &str,
    patient_id: &str,
    series: &str,
    range: &ReplayedRange,
) -> String {
    let within = format!(
        "occurred_at >= {} and occurred_at < {} and recorded_at <= {}",
        micros(range.from),
        micros(range.to),
        micros(range.known_at.unwrap_or(END_OF_TIME)),
    );
    format!(
        "copy (select r.position, recorded_at, occurred_at, series, value, quality, suspect, \
                      null as type, null as source_id, c.context as data \
               from reading r \
               left join reading_context c on c.shard = r.shard and c.position = r.position \
               where r.shard = {shard}::smallint and series = any ({series}) and {within} \
               union all \
               select position, recorded_at, occurred_at, null, null, null, null, type, source_id, \
                      event_data(type, data) \
               from non_reading \
               where shard = {shard}::smallint and tenant = {} and patient_id = {} and {within} \
               order by occurred_at, position) to stdout (format binary)",
        literal(tenant),
        literal(patient_id),
    )
}

/// A text as SQL reads it, whatever is in it and whatever a session's settings are.
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A time as SQL reads it.
pub(super) fn micros(time: DateTime<Utc>) -> String {
    format!("('epoch'::timestamptz + interval '{} microseconds')", time.timestamp_micros())
}

pub(super) fn broken() -> sqlx::Error {
    BadCopy.into()
}

/// The columns of [`statement`].
pub(super) fn row<'a>(
    fields: [Field<'a>; COLUMNS],
    series: &'a PatientSeries,
) -> Result<ExportRow<'a>, sqlx::Error> {
    let [position, recorded_at, occurred_at, number, value, quality, suspect, kind, source, data] =
        fields;
    let of = match copy::fixed(number)? {
        Some(number) => Some(series.get(i32::from_be_bytes(number)).ok_or_else(broken)?),
        None => None,
    };
    Ok(ExportRow {
        position: copy::int8(position)?,
        recorded_at: copy::micros(recorded_at)?,
        occurred_at: copy::micros(occurred_at)?,
        kind: copy::text(kind)?.unwrap_or(READING),
        vital: of.map(|of| of.vital),
        value: copy::fixed(value)?.map(f64::from_be_bytes),
        quality: copy::fixed(quality)?.map(f32::from_be_bytes),
        suspect: copy::fixed(suspect)? == Some([1]),
        source_id: match of {
            Some(of) => &of.source_id,
            None => copy::text(source)?.ok_or_else(broken)?,
        },
        data: copy::text(data)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_an_id_stays_inside_its_text() {
        let range = ReplayedRange::default();
        let text = statement(0, "t", "x' or '1'='1", "'{1}'", &range);
        assert!(text.contains("patient_id = E'x'' or ''1''=''1'"), "{text}");
    }
}
