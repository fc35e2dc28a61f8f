//! A patient's events at the rate at which PostgreSQL hands them out.
//!
//! Guarantees one snapshot of the log, the order of [`super::replay`], and constant
//! memory: rows are read from the connection as they come and handed on one by one.
//! Does not pause: whoever takes them slowly keeps a connection and a snapshot, so this
//! is for commands and not for requests.
//!
//! `COPY` in its binary form, taken apart by hand: no text of a number or a time is made
//! or read on the way.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use sqlx::PgConnection;

use super::END_OF_TIME;
use super::reach::Unanswered;
use super::replay::{Range, check};
use crate::event::{Event, READING, Recorded};
use crate::log::Log;
use crate::log::partition::attached;
use crate::vital::Vital;

/// One event, as it lies in what PostgreSQL sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'a> {
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

impl Row<'_> {
    /// The same as an event of its own.
    pub fn to_recorded(self, shard: i16, tenant: &str, patient_id: &str) -> Recorded {
        let time = |micros| DateTime::from_timestamp_micros(micros).unwrap_or(END_OF_TIME);
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
    range: &Range,
    mut each: impl FnMut(Row<'_>) -> std::io::Result<()>,
) -> Result<(), ExportError> {
    let shard = log.shard_of(tenant, patient_id);
    let mut range = range.clone();
    if let Some(known_at) = range.known_at {
        range.known_at = Some(log.settle(shard, known_at).await?);
    }
    let mut tx = log.pool().begin_with("begin isolation level repeatable read read only").await?;
    // By partition: each has a plan of its own, and rows come at once. Between them they
    // leave no gap, whatever partitions are made meanwhile.
    let spans = attached(&mut *tx).await?;
    let cuts = spans.into_iter().map(|span| span.since());
    let mut cuts: Vec<_> = cuts.filter(|cut| range.from < *cut && *cut < range.to).collect();
    cuts.push(range.to);
    let mut from = range.from;
    for to in cuts {
        let part = Range { from, to, ..range.clone() };
        copy(&mut tx, shard, tenant, patient_id, &part, &mut each).await?;
        from = to;
    }
    tx.rollback().await?;
    // A month that was archived before the snapshot has left only what it keeps.
    check(log, tenant, patient_id, range).await?;
    Ok(())
}

async fn copy(
    connection: &mut PgConnection,
    shard: i16,
    tenant: &str,
    patient_id: &str,
    range: &Range,
    each: &mut impl FnMut(Row<'_>) -> std::io::Result<()>,
) -> Result<(), ExportError> {
    let statement = statement(shard, tenant, patient_id, range);
    let mut rows = connection.copy_out_raw(&statement).await?;
    let mut begun = false;
    while let Some(message) = rows.next().await {
        let message: Bytes = message?;
        let mut fields = Fields(&message);
        if !begun {
            fields.header()?;
            begun = true;
        }
        // PostgreSQL sends a row a message; nothing here relies on it being only one.
        while let Some(row) = fields.row()? {
            each(row)?;
        }
    }
    Ok(())
}

/// `COPY` takes no parameters: times, numbers and quoted ids are written into it.
///
/// Sorted by PostgreSQL: to merge the vitals' own orders by the natural key took twice as
/// long, because it reads the table in the index's order and not in its own.
fn statement(shard: i16, tenant: &str, patient_id: &str, range: &Range) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let micros = |time: DateTime<Utc>| {
        format!("'epoch'::timestamptz + interval '{} microseconds'", time.timestamp_micros())
    };
    format!(
        "copy (select position, recorded_at, occurred_at, nullif(type, '{READING}'), vital, value, \
                      quality, suspect, source_id, \
                      case when vital is null then event_data(type, data) else data end \
               from event \
               where shard = {shard}::smallint and tenant = {} and patient_id = {} \
                 and occurred_at >= {} and occurred_at < {} and recorded_at <= {} \
               order by occurred_at, position) to stdout (format binary)",
        quote(tenant),
        quote(patient_id),
        micros(range.from),
        micros(range.to),
        micros(range.known_at.unwrap_or(END_OF_TIME)),
    )
}

/// What is left of a message.
struct Fields<'a>(&'a [u8]);

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// From 1970 to 2000, PostgreSQL's epoch.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const COLUMNS: i16 = 10;

fn broken() -> sqlx::Error {
    sqlx::Error::Protocol("COPY sent what is not its binary form".into())
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], sqlx::Error> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(broken)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], sqlx::Error> {
        self.take(N)?.try_into().map_err(|_| broken())
    }

    fn header(&mut self) -> Result<(), sqlx::Error> {
        if self.take(SIGNATURE.len())? != SIGNATURE {
            return Err(broken());
        }
        self.take(4)?;
        let more = u32::from_be_bytes(self.array()?);
        self.take(usize::try_from(more).map_err(|_| broken())?)?;
        Ok(())
    }

    /// The next field; `None` is null.
    fn field(&mut self) -> Result<Option<&'a [u8]>, sqlx::Error> {
        match i32::from_be_bytes(self.array()?) {
            -1 => Ok(None),
            length => self.take(usize::try_from(length).map_err(|_| broken())?).map(Some),
        }
    }

    fn fixed<const N: usize>(&mut self) -> Result<Option<[u8; N]>, sqlx::Error> {
        self.field()?.map(|bytes| bytes.try_into().map_err(|_| broken())).transpose()
    }

    fn text(&mut self) -> Result<Option<&'a str>, sqlx::Error> {
        self.field()?.map(|bytes| std::str::from_utf8(bytes).map_err(|_| broken())).transpose()
    }

    fn long(&mut self) -> Result<i64, sqlx::Error> {
        self.fixed()?.map(i64::from_be_bytes).ok_or_else(broken)
    }

    /// The next row; `None` at the end of the message, or of all.
    fn row(&mut self) -> Result<Option<Row<'a>>, sqlx::Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        match i16::from_be_bytes(self.array()?) {
            -1 => return Ok(None),
            COLUMNS => {}
            _ => return Err(broken()),
        }
        let position = self.long()?;
        let recorded_at = self.long()? + EPOCH_MICROS;
        let occurred_at = self.long()? + EPOCH_MICROS;
        let kind = self.text()?.unwrap_or(READING);
        let vital = self.text()?.map(|name| name.parse().map_err(|_| broken()));
        Ok(Some(Row {
            position,
            recorded_at,
            occurred_at,
            kind,
            vital: vital.transpose()?,
            value: self.fixed()?.map(f64::from_be_bytes),
            quality: self.fixed()?.map(f32::from_be_bytes),
            suspect: self.fixed()? == Some([1]),
            source_id: self.text()?.ok_or_else(broken)?,
            data: self.text()?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_copys_binary_form_is_an_error_and_no_panic() {
        let mut header = SIGNATURE.to_vec();
        header.extend([0; 8]);
        assert!(Fields(&header).header().is_ok());
        assert!(Fields(&header[..12]).header().is_err());
        assert!(Fields(b"position,value").header().is_err());
        assert_eq!(Fields(&[]).row().unwrap(), None);
        assert_eq!(Fields(&(-1_i16).to_be_bytes()).row().unwrap(), None);
        for bytes in
            [&[0, 10][..], &[0, 3, 0, 0], &[0, 10, 0, 0, 0, 8, 1], &[0, 10, 255, 255, 255, 254]]
        {
            assert!(Fields(bytes).row().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_quote_in_an_id_stays_inside_its_text() {
        let range = Range::default();
        let text = statement(0, "t", "x' or '1'='1", &range);
        assert!(text.contains("patient_id = 'x'' or ''1''=''1'"), "{text}");
    }
}
