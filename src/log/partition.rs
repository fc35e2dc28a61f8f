//! Months of the log, made when they are needed.
//!
//! Guarantees that after [`Known::ensure`] an insert for these times finds its
//! partition. Does not drop or archive anything.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use chrono::{DateTime, Datelike, Utc};
use sqlx::{AssertSqlSafe, PgPool};

/// Times before this year share one partition.
const FIRST_YEAR: i32 = 2000;

/// A calendar month in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Month {
    year: i32,
    month: u32,
}

impl Month {
    /// The month of a time, or `None` where the one old partition serves.
    pub fn of(t: DateTime<Utc>) -> Option<Month> {
        (t.year() >= FIRST_YEAR).then(|| Month { year: t.year(), month: t.month() })
    }

    /// The month after this one.
    pub fn next(self) -> Month {
        match self.month {
            12 => Month { year: self.year + 1, month: 1 },
            m => Month { year: self.year, month: m + 1 },
        }
    }

    /// `event_2026_01`.
    pub fn table(self) -> String {
        format!("event_{:04}_{:02}", self.year, self.month)
    }

    fn first_day(self) -> String {
        format!("{:04}-{:02}-01T00:00:00Z", self.year, self.month)
    }
}

/// The months that this process knows to exist.
pub struct Known(RwLock<HashSet<Month>>);

impl Known {
    pub(super) async fn load(pool: &PgPool) -> Result<Known, sqlx::Error> {
        let tables: Vec<String> = sqlx::query_scalar(
            "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid \
             where i.inhparent = 'event'::regclass",
        )
        .fetch_all(pool)
        .await?;
        let months = tables.iter().filter_map(|t| {
            let (year, month) = t.strip_prefix("event_")?.split_once('_')?;
            Some(Month { year: year.parse().ok()?, month: month.parse().ok()? })
        });
        Ok(Known(RwLock::new(months.collect())))
    }

    pub(super) async fn ensure(
        &self,
        pool: &PgPool,
        times: impl Iterator<Item = DateTime<Utc>>,
    ) -> Result<(), sqlx::Error> {
        let missing: HashSet<Month> = {
            let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
            times.filter_map(Month::of).filter(|m| !known.contains(m)).collect()
        };
        for month in missing {
            create(pool, month).await?;
            self.0.write().unwrap_or_else(PoisonError::into_inner).insert(month);
        }
        Ok(())
    }
}

/// Makes a month and attaches it.
///
/// Attaching takes a lock that lets appends go on, where CREATE … PARTITION OF
/// would stop them all. The advisory lock makes two processes that need the same
/// month take turns.
async fn create(pool: &PgPool, month: Month) -> Result<(), sqlx::Error> {
    const PARTITIONS_LOCK: i64 = 0x0076_6974_616c_7301;
    let table = month.table();
    let mut tx = pool.begin().await?;
    sqlx::query("select pg_advisory_xact_lock($1)").bind(PARTITIONS_LOCK).execute(&mut *tx).await?;
    let exists: bool = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(&table)
        .fetch_one(&mut *tx)
        .await?;
    if !exists {
        // The name is made of two numbers; nothing from outside gets here.
        let sql = format!(
            "create table {table} (like event including all); \
             alter table event attach partition {table} for values from ('{}') to ('{}')",
            month.first_day(),
            month.next().first_day()
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await?;
    }
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_each_other_and_old_times_have_none() {
        let december = Month::of("2025-12-31T23:59:59.999999Z".parse().unwrap()).unwrap();
        assert_eq!(december.table(), "event_2025_12");
        assert_eq!(december.next().first_day(), "2026-01-01T00:00:00Z");
        assert_eq!(Month::of("1999-12-31T23:59:59Z".parse().unwrap()), None);
    }
}
