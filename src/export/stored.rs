//! Exports that are whole, for who hands them out.
//!
//! Guarantees bounded memory, a part, and a place in the bytes for any question: one that
//! expires while it is handed out breaks off, and never looks like a shorter one. Does not
//! know what the bytes are.

use std::io;
use std::ops::Range;

use async_stream::try_stream;
use bytes::Bytes;
use futures_util::Stream;
use sqlx::PgPool;
use uuid::Uuid;

use super::store::{INSTALLATION_BYTES_MAX, TENANT_BYTES_MAX};
use crate::log::answered;

/// The exports of an installation: cheap to clone.
#[derive(Clone)]
pub struct StoredExports {
    pool: PgPool,
}

impl StoredExports {
    /// Those of a database.
    pub fn new(pool: PgPool) -> StoredExports {
        StoredExports { pool }
    }

    /// Whether there is room for a byte more of a tenant's.
    pub async fn has_room(&self, tenant: &str) -> Result<bool, sqlx::Error> {
        let (own, everyone): (i64, i64) = sqlx::query_as(
            "select coalesce(sum(bytes) filter (where tenant = $1), 0)::bigint, \
                    coalesce(sum(bytes), 0)::bigint from export",
        )
        .bind(tenant)
        .fetch_one(&self.pool)
        .await?;
        Ok(own < TENANT_BYTES_MAX && everyone < INSTALLATION_BYTES_MAX)
    }

    /// Whether an export is whole and has not expired.
    pub async fn is_kept(&self, tenant: &str, job: Uuid) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar(
            "select exists (select from export where tenant = $1 and job = $2 \
                            and expires_at >= statement_timestamp())",
        )
        .bind(tenant)
        .bind(job)
        .fetch_one(&self.pool)
        .await
    }

    /// Lets an export that is whole expire now.
    pub async fn expire(&self, tenant: &str, job: Uuid) -> Result<(), sqlx::Error> {
        sqlx::query(
            "update export set expires_at = statement_timestamp() - interval '1 us' \
             where tenant = $1 and job = $2 and expires_at is not null",
        )
        .bind(tenant)
        .bind(job)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Some of an export's bytes, part after part. No connection is held between two.
    pub fn bytes(
        self,
        tenant: String,
        job: Uuid,
        range: Range<i64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send {
        try_stream! {
            let mut at = range.start;
            while at < range.end {
                let part = answered(self.part(&tenant, job, at)).await.map_err(io::Error::other)?;
                let part = part.and_then(|(first, data)| cut(first, data, at..range.end));
                let part = part.ok_or_else(|| io::Error::other("the export has expired"))?;
                at = at.saturating_add(i64::try_from(part.len()).unwrap_or(i64::MAX));
                yield part;
            }
        }
    }

    async fn part(
        &self,
        tenant: &str,
        job: Uuid,
        at: i64,
    ) -> Result<Option<(i64, Vec<u8>)>, sqlx::Error> {
        sqlx::query_as(
            "select first, data from export_part \
             where tenant = $1 and job = $2 and first <= $3 order by first desc limit 1",
        )
        .bind(tenant)
        .bind(job)
        .bind(at)
        .fetch_optional(&self.pool)
        .await
    }
}

/// What of a part that begins at `first` lies within a range; `None` when its beginning does
/// not.
fn cut(first: i64, data: Vec<u8>, range: Range<i64>) -> Option<Bytes> {
    let data = Bytes::from(data);
    let place = |at: i64| usize::try_from(at.checked_sub(first)?).ok();
    let (from, to) = (place(range.start)?, place(range.end)?.min(data.len()));
    (from < to).then(|| data.slice(from..to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_cut_to_what_was_asked_for_and_one_that_lacks_it_is_none() {
        let cut = |range| cut(10, b"abcdef".to_vec(), range);
        assert_eq!(cut(10..16).as_deref(), Some(&b"abcdef"[..]));
        assert_eq!(cut(12..14).as_deref(), Some(&b"cd"[..]));
        assert_eq!(cut(15..99).as_deref(), Some(&b"f"[..]));
        for range in [16..99, 9..12, 12..12, i64::MIN..12] {
            assert_eq!(cut(range.clone()), None, "{range:?}");
        }
    }
}
