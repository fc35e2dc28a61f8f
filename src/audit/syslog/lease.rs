//! Who tells accesses, and how far it has come.
//!
//! Guarantees that of several processes one has the lease at a time, by the database's clock;
//! that what is settled moves only for who has it; and that after a restore nothing waits for
//! positions that are gone.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::clock::Clock;
use crate::event::ACCESS;
use crate::log::{Log, answered_soon, head};

/// The row.
const NAME: &str = "syslog";
/// How long a process that says nothing keeps the lease.
const LEASE_SECONDS: i32 = 15;
/// Accesses that are written at once.
const ACCESSES_MAX: i64 = 500;

/// An access, as it lies in the log.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Stored {
    pub(super) shard: i16,
    pub(super) position: i64,
    pub(super) occurred_at: DateTime<Utc>,
    pub(super) tenant: String,
    pub(super) patient_id: String,
    pub(super) source_id: String,
    pub(super) data: String,
}

/// What follows a position.
pub(super) struct Unsent {
    pub(super) accesses: Vec<Stored>,
    /// The last position that was looked at.
    pub(super) upto: i64,
    /// Nothing was left.
    pub(super) is_all: bool,
}

/// The lease, or the wish for it.
pub(super) struct Lease {
    log: Log,
    clock: Clock,
    holder: Uuid,
    told: Vec<i64>,
}

impl Lease {
    pub(super) fn new(log: Log, clock: Clock) -> Lease {
        let told = vec![0; log.shards().count()];
        Lease { log, clock, holder: Uuid::new_v4(), told }
    }

    /// What is told for certain, shard by shard.
    pub(super) fn told(&self) -> &[i64] {
        &self.told
    }

    /// Takes it, unless another process has it.
    pub(super) async fn take(&mut self) -> Result<bool, sqlx::Error> {
        sqlx::query(
            "insert into audit_export (name, positions) values ($1, $2) on conflict do nothing",
        )
        .bind(NAME)
        .bind(vec![0_i64; self.told.len()])
        .execute(self.log.pool())
        .await?;
        let taken: Option<Vec<i64>> = sqlx::query_scalar(
            "update audit_export set holder = $2, \
                    lease_until = clock_timestamp() + make_interval(secs => $3) \
             where name = $1 and (holder = $2 or lease_until < clock_timestamp()) \
             returning positions",
        )
        .bind(NAME)
        .bind(self.holder)
        .bind(f64::from(LEASE_SECONDS))
        .fetch_optional(self.log.pool())
        .await?;
        let Some(positions) = taken else { return Ok(false) };
        for (told, position) in self.told.iter_mut().zip(positions) {
            *told = position;
        }
        Ok(true)
    }

    /// These are told.
    pub(super) fn settle(&mut self, positions: Vec<i64>) {
        self.told = positions;
    }

    /// Keeps it, and writes down what is told; `false` when another process has it.
    pub(super) async fn keep(&self) -> Result<bool, sqlx::Error> {
        let kept = sqlx::query(
            "update audit_export set positions = $3, \
                    lease_until = clock_timestamp() + make_interval(secs => $4) \
             where name = $1 and holder = $2",
        )
        .bind(NAME)
        .bind(self.holder)
        .bind(&self.told)
        .bind(f64::from(LEASE_SECONDS));
        let kept = answered_soon(kept.execute(self.log.pool())).await?;
        Ok(kept.rows_affected() > 0)
    }

    /// So that another process need not wait.
    pub(super) async fn give_back(&self) {
        let given = sqlx::query(
            "update audit_export set lease_until = '-infinity' where name = $1 and holder = $2",
        )
        .bind(NAME)
        .bind(self.holder)
        .execute(self.log.pool())
        .await;
        if let Err(error) = given {
            tracing::debug!(%error, "the lease of the audit's export ends by itself");
        }
    }

    /// What follows a position of a shard.
    pub(super) async fn unsent(&self, shard: usize, after: i64) -> Result<Unsent, sqlx::Error> {
        let shard = i16::try_from(shard).unwrap_or(i16::MAX);
        answered_soon(async {
            let mut connection = self.log.pool().acquire().await?;
            let head = head(&mut connection, shard).await?;
            // The log was restored, and does not reach so far any more.
            let after = after.min(head);
            let accesses: Vec<Stored> = match after == head {
                true => Vec::new(),
                false => {
                    sqlx::query_as(
                        "select shard, position, occurred_at, tenant, patient_id, source_id, \
                                data::text as data \
                         from non_reading where shard = $1 and position > $2 and position <= $3 \
                           and type = $4 order by position limit $5",
                    )
                    .bind(shard)
                    .bind(after)
                    .bind(head)
                    .bind(ACCESS)
                    .bind(ACCESSES_MAX)
                    .fetch_all(&mut *connection)
                    .await?
                }
            };
            let last = accesses.last().map(|last| last.position);
            let is_all = (accesses.len() as i64) < ACCESSES_MAX;
            let upto = last.filter(|_| !is_all).unwrap_or(head);
            Ok(Unsent { accesses, upto, is_all })
        })
        .await
    }

    /// For how long the oldest access that is not told has been recorded.
    pub(super) async fn tell_lag(&self) {
        let oldest: Result<Option<DateTime<Utc>>, sqlx::Error> = answered_soon(async {
            sqlx::query_scalar(
                "select min(oldest) from unnest($1::bigint[]) with ordinality as t (told, n) \
                 cross join lateral (select recorded_at as oldest from non_reading \
                     where shard = t.n - 1 and position > t.told and type = $2 \
                     order by position limit 1) o",
            )
            .bind(&self.told)
            .bind(ACCESS)
            .fetch_one(self.log.pool())
            .await
        })
        .await;
        if let Ok(Some(oldest)) = oldest {
            let lag = (self.clock.now() - oldest).as_seconds_f64();
            metrics::gauge!("vitals_audit_syslog_lag_seconds").set(lag.max(0.0));
        }
    }
}
