//! Who has read and changed what: accesses as the log has them.
//!
//! Guarantees that only the tenant's own are shown, newest first, and that pages follow each
//! other without a gap or a repeat; the log itself is asked, so what is recorded is seen. Each
//! filter has an index whose order is that of the list (`tests/suite/plans.rs`). Does not read
//! what an access says.

use chrono::{DateTime, Utc};
use futures_util::Stream;
use sqlx::{Postgres, QueryBuilder};

use crate::event::{ACCESS, ACCESSES_OF};
use crate::log::{Log, answered};

/// Accesses of a page of a whole list, some 300 bytes each.
const PAGE_MAX: i64 = 2_000;

/// Which accesses are wanted.
#[derive(Clone, Debug, Default)]
pub struct AccessFilter {
    /// Those to this patient's data.
    pub patient_id: Option<String>,
    /// Those by this subject.
    pub subject: Option<String>,
    /// From here on.
    pub from: Option<DateTime<Utc>>,
    /// Until here, not included.
    pub to: Option<DateTime<Utc>>,
    /// Only those after this place in the list.
    pub after: Option<(DateTime<Utc>, i64)>,
}

/// An access, as it lies in the log.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct StoredAccess {
    /// Its tenant's.
    pub shard: i16,
    /// Within it.
    pub position: i64,
    /// When it was, or the first of several.
    pub occurred_at: DateTime<Utc>,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
    /// [`ACCESSES_OF`] and the patient's id, if one was named.
    pub patient_id: String,
    /// The subject.
    pub source_id: String,
    /// JSON text: the rest.
    pub data: String,
}

impl StoredAccess {
    /// Its place in the list.
    pub fn place(&self) -> (DateTime<Utc>, i64) {
        (self.occurred_at, self.position)
    }
}

/// The statement of a page. A filter that is not given is not in it, so that each has the
/// plan of its own index.
pub fn statement(
    shard: i16,
    tenant: &str,
    filter: &AccessFilter,
    limit: i64,
) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(
        "select shard, position, occurred_at, recorded_at, patient_id, source_id, data::text as data \
         from non_reading where shard = ",
    );
    sql.push_bind(shard).push(" and tenant = ").push_bind(tenant);
    // Either, so that the index of streams is the only one there is for a patient's: nothing
    // else lies in a stream of accesses.
    match &filter.patient_id {
        Some(of) => sql.push(" and patient_id = ").push_bind(format!("{ACCESSES_OF}{of}")),
        None => sql.push(format_args!(" and type = '{ACCESS}'")),
    };
    if let Some(subject) = &filter.subject {
        sql.push(" and source_id = ").push_bind(subject);
    }
    if let Some(from) = filter.from {
        sql.push(" and occurred_at >= ").push_bind(from);
    }
    if let Some(to) = filter.to {
        sql.push(" and occurred_at < ").push_bind(to);
    }
    if let Some((at, position)) = filter.after {
        sql.push(" and occurred_at <= ").push_bind(at);
        sql.push(" and (occurred_at, position) < (").push_bind(at);
        sql.push(", ").push_bind(position).push(")");
    }
    sql.push(" order by occurred_at desc, position desc limit ").push_bind(limit);
    sql
}

/// A page of accesses, newest first.
pub async fn page(
    log: &Log,
    tenant: &str,
    filter: &AccessFilter,
    limit: i64,
) -> Result<Vec<StoredAccess>, sqlx::Error> {
    let shard = log.shard_of(tenant, ACCESSES_OF);
    let mut sql = statement(shard, tenant, filter, limit);
    answered(sql.build_query_as().fetch_all(log.pool())).await
}

/// All of them, page by page; none is held while the one before is taken.
pub fn pages(
    log: Log,
    tenant: String,
    filter: AccessFilter,
) -> impl Stream<Item = Result<Vec<StoredAccess>, sqlx::Error>> + Send {
    futures_util::stream::try_unfold(Some(filter), move |rest| {
        let (log, tenant) = (log.clone(), tenant.clone());
        async move {
            let Some(mut filter) = rest else { return Ok(None) };
            let rows = page(&log, &tenant, &filter, PAGE_MAX).await?;
            filter.after = rows.last().map(StoredAccess::place);
            let is_full = rows.len() as i64 == PAGE_MAX;
            Ok((!rows.is_empty()).then(|| (rows, is_full.then_some(filter))))
        }
    })
}
