//! Reading a shard in commit order.
//!
//! Guarantees that a window holds every event of its positions, because they were
//! all committed before the head that bounds it was read. Does not read across
//! shards.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::append::EVENTS_PER_APPEND_MAX;
use crate::event::{Event, Recorded};

/// The positions (after, to] of a shard, and the time that their events lie in.
#[derive(Clone, Debug)]
pub struct Window {
    /// Which shard.
    pub shard: i16,
    /// The last position that is behind us.
    pub after: i64,
    /// The last position of this window.
    pub to: i64,
    /// The earliest `occurred_at` in it: readers name it so that PostgreSQL
    /// touches only the months that matter.
    pub since: DateTime<Utc>,
    /// The latest `occurred_at` in it.
    pub until: DateTime<Utc>,
}

impl Window {
    /// The window between two positions, both at or below the committed head.
    pub async fn between(
        connection: &mut PgConnection,
        shard: i16,
        after: i64,
        to: i64,
    ) -> Result<Window, sqlx::Error> {
        // A commit that reaches beyond `to` still begins within one append of it.
        let reach = to.saturating_add(EVENTS_PER_APPEND_MAX as i64);
        let (since, until): (Option<DateTime<Utc>>, Option<DateTime<Utc>>) = sqlx::query_as(
            "select min(occurred_min), max(occurred_max) from log_commit \
             where shard = $1 and position_to > $2 and position_to <= $3 and position_from <= $4",
        )
        .bind(shard)
        .bind(after)
        .bind(reach)
        .bind(to)
        .fetch_one(connection)
        .await?;
        let epoch = DateTime::UNIX_EPOCH;
        Ok(Window {
            shard,
            after,
            to,
            since: since.unwrap_or(epoch),
            until: until.unwrap_or(epoch),
        })
    }
}

/// The events of a window, in order.
pub async fn read_window(
    connection: &mut PgConnection,
    window: &Window,
) -> Result<Vec<Recorded>, sqlx::Error> {
    let query = bind_window(sqlx::query(include_str!("read_window.sql")), window);
    decode_events(window.shard, &query.fetch_all(connection).await?)
}

/// The events at the positions (after, to], wherever in time they lie, each with the number
/// of its series: for those who do not believe the commits' times, as the chain's check.
pub(super) async fn read_positions(
    connection: &mut PgConnection,
    shard: i16,
    after: i64,
    to: i64,
) -> Result<Vec<(Recorded, Option<i32>)>, sqlx::Error> {
    let rows = sqlx::query(include_str!("read_positions.sql"))
        .bind(shard)
        .bind(after)
        .bind(to)
        .fetch_all(connection)
        .await?;
    let mut tenants = Tenants::default();
    rows.iter()
        .map(|row| Ok((recorded(row, shard, &mut tenants)?, row.try_get("series")?)))
        .collect()
}

/// A tenant's events of a window, in order.
pub async fn read_window_of_tenant(
    connection: &mut PgConnection,
    window: &Window,
    tenant: &str,
) -> Result<Vec<Recorded>, sqlx::Error> {
    let sql = concat!(
        "select * from (",
        include_str!("read_window.sql"),
        ") w where tenant = $6 order by position"
    );
    let query = bind_window(sqlx::query(sql), window).bind(tenant);
    decode_events(window.shard, &query.fetch_all(connection).await?)
}

/// The events of a window that are no readings, in order. They are few, and have
/// a table of their own.
pub async fn read_non_readings(
    connection: &mut PgConnection,
    window: &Window,
) -> Result<Vec<Recorded>, sqlx::Error> {
    let query = sqlx::query(include_str!("read_non_readings.sql"))
        .bind(window.shard)
        .bind(window.after)
        .bind(window.to);
    decode_events(window.shard, &query.fetch_all(connection).await?)
}

type Query = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bind_window(query: Query, window: &Window) -> Query {
    query
        .bind(window.shard)
        .bind(window.after)
        .bind(window.to)
        .bind(window.since)
        .bind(window.until)
}

/// Rows with the columns of `read_window.sql`, as events of a shard.
pub fn decode_events(shard: i16, rows: &[PgRow]) -> Result<Vec<Recorded>, sqlx::Error> {
    let mut tenants = Tenants::default();
    rows.iter().map(|row| recorded(row, shard, &mut tenants)).collect()
}

/// One allocation a tenant instead of one an event.
#[derive(Default)]
pub(super) struct Tenants(HashMap<String, Arc<str>>);

impl Tenants {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(tenant) = self.0.get(name) {
            return tenant.clone();
        }
        let tenant: Arc<str> = name.into();
        self.0.insert(name.to_owned(), tenant.clone());
        tenant
    }
}

pub(super) fn recorded(
    row: &PgRow,
    shard: i16,
    tenants: &mut Tenants,
) -> Result<Recorded, sqlx::Error> {
    let vital: Option<&str> = row.try_get("vital")?;
    let vital = vital
        .map(|name| name.parse())
        .transpose()
        .map_err(|e| sqlx::Error::ColumnDecode { index: "vital".into(), source: Box::new(e) })?;
    Ok(Recorded {
        shard,
        position: row.try_get("position")?,
        recorded_at: row.try_get("recorded_at")?,
        event: Event {
            tenant: tenants.get(row.try_get("tenant")?),
            patient_id: row.try_get("patient_id")?,
            kind: row.try_get("type")?,
            vital,
            value: row.try_get("value")?,
            quality: row.try_get("quality")?,
            suspect: row.try_get("suspect")?,
            occurred_at: row.try_get("occurred_at")?,
            source_id: row.try_get("source_id")?,
            data: row.try_get("data")?,
        },
    })
}
