//! A patient's readings, or all of their events, page after page as PostgreSQL sends them.
//!
//! Guarantees that pages follow each other without a gap or a repeat, also while readings
//! arrive; and bounded memory, a page and the one that is read meanwhile. Holds neither a
//! connection nor a snapshot between two pages: a client that takes them slowly costs nothing
//! but what it has not taken.
//!
//! A page is a stretch of time, as long as the one before suggests: within it PostgreSQL
//! reads the series in the order in which they lie, and sorts. To join them took three times
//! as long.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{Stream, StreamExt};
use tokio_util::task::AbortOnDropHandle;

use super::END_OF_TIME;
use super::export::{ExportRow, PatientSeries, broken, literal, micros, row, series};
use super::history::{HistoryCursor, HistoryQuery};
use super::reach::Unanswered;
use super::replay::{self, ReplayedRange};
use crate::log::copy::{self, Next};
use crate::log::row_security::as_tenant;
use crate::log::{Log, answered};

/// Events of a page, some 80 bytes each.
const EVENTS_PER_PAGE_MAX: usize = 10_000;
/// The first stretch of time that is looked at.
const SPAN_FIRST: TimeDelta = TimeDelta::hours(1);
/// No stretch is shorter, nor longer.
const SPAN_MIN: TimeDelta = TimeDelta::seconds(1);
const SPAN_MAX: TimeDelta = TimeDelta::days(3_660);

/// Rows as PostgreSQL sent them.
pub struct BulkPage {
    bytes: Vec<u8>,
    series: PatientSeries,
}

impl BulkPage {
    /// Each of them, in order.
    pub fn rows(&self) -> impl Iterator<Item = Result<ExportRow<'_>, sqlx::Error>> {
        let mut rest = &*self.bytes;
        std::iter::from_fn(move || match copy::row(rest) {
            Ok(Next::Row(fields, length)) => {
                rest = rest.get(length..).unwrap_or_default();
                Some(row(fields, &self.series))
            }
            Ok(Next::End | Next::Part) => None,
            Err(error) => {
                rest = &[];
                Some(Err(error.into()))
            }
        })
    }
}

/// What is wanted, and in which order.
enum Wanted {
    /// The readings that count, in the order of (time, vital, device).
    /// Of what the shard had been told up to a position, if there is one.
    Readings(HistoryQuery, Option<i64>),
    /// All events, in the order of (time, position).
    Events { tenant: String, patient_id: String, known_at: DateTime<Utc> },
}

/// The last row of the page before.
enum Place {
    Reading(HistoryCursor),
    Event(DateTime<Utc>, i64),
}

/// Where a reader of pages is.
struct Reader {
    log: Log,
    wanted: Wanted,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    after: Option<Place>,
    span: TimeDelta,
    is_over: bool,
}

/// A patient's readings from a place on.
pub fn readings(
    log: Log,
    question: HistoryQuery,
    after: Option<HistoryCursor>,
) -> impl Stream<Item = Result<BulkPage, Unanswered>> + Send {
    pages(Reader::of_readings(log, question, after, None))
}

/// The same of what the patient's shard had been told up to a position, which must be
/// committed: what comes later changes nothing of it. Where few are expected, all of them are
/// looked for at once.
pub fn readings_known(
    log: Log,
    question: HistoryQuery,
    after: Option<HistoryCursor>,
    until: i64,
    expected: i64,
) -> impl Stream<Item = Result<BulkPage, Unanswered>> + Send {
    let mut reader = Reader::of_readings(log, question, after, Some(until));
    if usize::try_from(expected).is_ok_and(|expected| expected < EVENTS_PER_PAGE_MAX / 2) {
        reader.span = TimeDelta::MAX;
    }
    pages(reader)
}

/// A patient's events of a range; its `known_at` must be settled.
pub fn events(
    log: Log,
    tenant: String,
    patient_id: String,
    range: ReplayedRange,
) -> impl Stream<Item = Result<BulkPage, Unanswered>> + Send {
    let known_at = range.known_at.unwrap_or(END_OF_TIME);
    // Nothing is recorded more than minutes before it was true: fewer rows to look at.
    let to = range.to.min(known_at.checked_add_signed(TimeDelta::minutes(10)).unwrap_or(range.to));
    let after = range.after.filter(|(at, _)| *at >= range.from);
    let from = after.map_or(range.from, |(at, _)| at);
    let after = after.map(|(at, position)| Place::Event(at, position));
    let wanted = Wanted::Events { tenant, patient_id, known_at };
    pages(Reader { log, wanted, from, to, after, span: SPAN_FIRST, is_over: false })
}

/// The pages; while one is taken, the next one is read.
fn pages(reader: Reader) -> impl Stream<Item = Result<BulkPage, Unanswered>> + Send {
    let ahead = Some(read_ahead(reader));
    futures_util::stream::unfold(ahead, async |ahead| {
        let (reader, page) = match ahead?.await {
            Ok(read) => read,
            Err(error) => {
                let ended = std::io::Error::other(error);
                return Some((Err(Unanswered::Database(ended.into())), None));
            }
        };
        match page {
            Ok(Some(page)) => Some((Ok(page), Some(read_ahead(reader)))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
}

type Ahead = AbortOnDropHandle<(Reader, Result<Option<BulkPage>, Unanswered>)>;

fn read_ahead(mut reader: Reader) -> Ahead {
    let tenant = reader.tenant().into();
    AbortOnDropHandle::new(tokio::spawn(as_tenant(tenant, async move {
        let page = reader.next().await;
        (reader, page)
    })))
}

impl Reader {
    fn of_readings(
        log: Log,
        question: HistoryQuery,
        after: Option<HistoryCursor>,
        known_until: Option<i64>,
    ) -> Reader {
        let range = &question.range;
        let from = after.as_ref().map_or(range.from, |place| range.from.max(place.measured_at));
        let (to, after) = (range.to, after.map(Place::Reading));
        let wanted = Wanted::Readings(question, known_until);
        Reader { log, wanted, from, to, after, span: SPAN_FIRST, is_over: false }
    }

    fn tenant(&self) -> &str {
        match &self.wanted {
            Wanted::Readings(question, _) => &question.tenant,
            Wanted::Events { tenant, .. } => tenant,
        }
    }

    fn patient_id(&self) -> &str {
        match &self.wanted {
            Wanted::Readings(question, _) => &question.patient_id,
            Wanted::Events { patient_id, .. } => patient_id,
        }
    }

    /// The next page that has anything.
    async fn next(&mut self) -> Result<Option<BulkPage>, Unanswered> {
        while !self.is_over && self.from < self.to {
            let until = self.from.checked_add_signed(self.span).map_or(self.to, |t| t.min(self.to));
            self.check().await?;
            let page = answered(self.read(until)).await?;
            self.check().await?;
            let (mut count, mut last) = (0, None);
            for row in page.rows() {
                last = Some(row?);
                count += 1;
            }
            let place = last.map(|row| self.place(&row)).transpose()?;
            match place {
                Some(place) if count == EVENTS_PER_PAGE_MAX => {
                    self.from = place.at();
                    self.after = Some(place);
                    self.span = (self.span / 2).max(SPAN_MIN);
                }
                _ => {
                    (self.from, self.after) = (until, None);
                    if count < EVENTS_PER_PAGE_MAX / 2 && self.span < SPAN_MAX {
                        self.span = (self.span * 2).min(SPAN_MAX);
                    }
                }
            }
            if count > 0 {
                return Ok(Some(page));
            }
            self.skip().await?;
        }
        Ok(None)
    }

    /// A month may leave, or come back, meanwhile.
    async fn check(&self) -> Result<(), Unanswered> {
        match &self.wanted {
            Wanted::Readings(question, _) => question.reach(self.from).check(&self.log).await,
            Wanted::Events { tenant, patient_id, .. } => {
                let range = ReplayedRange { from: self.from, to: self.to, ..Default::default() };
                replay::check(&self.log, tenant, patient_id, range).await
            }
        }
    }

    async fn read(&self, until: DateTime<Utc>) -> Result<BulkPage, Unanswered> {
        let shard = self.log.shard_of(self.tenant(), self.patient_id());
        let mut connection = self.log.pool().acquire().await?;
        let series = series(&mut connection, shard, self.tenant(), self.patient_id()).await?;
        let statement = self.statement(shard, &series, until);
        let mut rows = connection.copy_out_raw(&statement).await?;
        let mut bytes = Vec::new();
        while let Some(part) = rows.next().await {
            bytes.extend_from_slice(&part?);
        }
        drop(rows);
        bytes.drain(..copy::header(&bytes).map_err(sqlx::Error::from)?);
        Ok(BulkPage { bytes, series })
    }

    /// Where nothing lies, the next event is looked for: years may be empty.
    async fn skip(&mut self) -> Result<(), Unanswered> {
        let next: Option<DateTime<Utc>> = sqlx::query_scalar(include_str!("next_event.sql"))
            .bind(self.log.shard_of(self.tenant(), self.patient_id()))
            .bind(self.tenant())
            .bind(self.patient_id())
            .bind(self.from)
            .bind(self.to)
            .fetch_one(self.log.pool())
            .await?;
        match next {
            Some(next) => self.from = next,
            None => self.is_over = true,
        }
        Ok(())
    }

    fn place(&self, row: &ExportRow<'_>) -> Result<Place, sqlx::Error> {
        let at = DateTime::from_timestamp_micros(row.occurred_at).ok_or_else(broken)?;
        Ok(match &self.wanted {
            Wanted::Readings(..) => Place::Reading(HistoryCursor {
                measured_at: at,
                vital: row.vital.ok_or_else(broken)?,
                device_id: row.source_id.to_owned(),
            }),
            Wanted::Events { .. } => Place::Event(at, row.position),
        })
    }

    /// `COPY` takes no parameters: times, numbers and quoted texts are written into it.
    fn statement(&self, shard: i16, series: &PatientSeries, until: DateTime<Utc>) -> String {
        let (tenant, patient) = (literal(self.tenant()), literal(self.patient_id()));
        let shard_is = format!("shard = {shard}::smallint");
        let whose = format!("{shard_is} and tenant = {tenant} and patient_id = {patient}");
        let mut within =
            format!("occurred_at >= {} and occurred_at < {}", micros(self.from), micros(until));
        let (wanted, order, others) = match &self.wanted {
            Wanted::Readings(question, known_until) => {
                let until = |of| known_until.map(|at| format!(" and {of} <= {at}"));
                let wanted = series.numbers(|of| question.wants(of.vital, &of.source_id));
                if let Some(Place::Reading(place)) = &self.after {
                    let next = series.numbers(|of| {
                        (of.vital, &*of.source_id) > (place.vital, &*place.device_id)
                    });
                    within += &format!(
                        " and (occurred_at > {} or series = any ({next}))",
                        micros(place.measured_at)
                    );
                }
                let (of_reading, of_retraction) = (until("r.position"), until("position"));
                let of_retraction = of_retraction.unwrap_or_default();
                within += &of_reading.unwrap_or_default();
                within += &format!(
                    " and r.position not in (select (data ->> 'readingPosition')::bigint \
                                             from non_reading \
                                             where {whose} and type = 'reading_retracted'{of_retraction})"
                );
                let order = format!("occurred_at, array_position({wanted}, series)");
                (wanted, order, String::new())
            }
            Wanted::Events { known_at, .. } => {
                within += &format!(" and recorded_at <= {}", micros(*known_at));
                if let Some(Place::Event(at, position)) = &self.after {
                    within +=
                        &format!(" and (occurred_at, r.position) > ({}, {position})", micros(*at));
                }
                let others = format!(
                    " union all \
                     select position, recorded_at, occurred_at, null, null, null, null, type, source_id, \
                            event_data(type, data) \
                     from non_reading r where {whose} and {within}"
                );
                (series.numbers(|_| true), "3, 1".to_owned(), others)
            }
        };
        format!(
            "copy (select r.position, recorded_at, occurred_at, series, value, quality, suspect, \
                          null::text, null::text, c.context \
                   from reading r \
                   left join reading_context c on c.{shard_is} and c.position = r.position \
                   where r.{shard_is} and series = any ({wanted}) and {within}{others} \
                   order by {order} limit {EVENTS_PER_PAGE_MAX}) to stdout (format binary)"
        )
    }
}

impl Place {
    fn at(&self) -> DateTime<Utc> {
        match self {
            Place::Reading(place) => place.measured_at,
            Place::Event(at, _) => *at,
        }
    }
}
