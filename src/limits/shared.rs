//! What the processes of an installation tell each other of who has used how much.
//!
//! Guarantees that nobody waits for PostgreSQL but who takes more than the process's credit,
//! and these not for long ([`super::asking`]); that what is used at one process is known at
//! the others within [`ROUND_MS`]; and that while PostgreSQL does not answer each process
//! goes on with what it knows. As long as a process is the only one, it tells nothing but
//! that it is there. Of who asks little nobody is told.

use std::time::Duration;

use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use super::Limits;
use crate::auth::Subject;

/// The longest time between two rounds.
const ROUND_MS: u64 = 1_000;
/// The shortest: many that wait share one.
const PACE_MS: u64 = 10;
/// After so long without a sign a process is not counted any more.
const GONE_SECONDS: f64 = 5.0;
/// What was told in so many seconds is read again: it may have been committed late.
const OVERLAP_SECONDS: f64 = 5.0;
/// How often what has flowed back is swept up.
const SWEEP_SECONDS: u64 = 60;
/// Subjects of a limit that are told of in a round.
const TOLD_MAX: usize = 10_000;

/// Limit, subject and nanoseconds; without a limit how many processes there are.
type Row = (Option<i16>, Option<Vec<u8>>, i64);

/// Who tells the others for this process.
pub struct Sharing {
    limits: Limits,
    pool: PgPool,
    id: Uuid,
}

impl Sharing {
    /// Begins, and knows when it returns what the others have told.
    pub async fn open(limits: Limits, pool: PgPool) -> Result<Sharing, sqlx::Error> {
        let sharing = Sharing { limits, pool, id: Uuid::new_v4() };
        sharing.round().await?;
        Ok(sharing)
    }

    /// Tells them, for ever.
    pub async fn tell(self) {
        let asking = self.limits.asking();
        let (mut failed, mut swept) = (false, Instant::now());
        loop {
            if swept.elapsed() >= Duration::from_secs(SWEEP_SECONDS) {
                swept = Instant::now();
                if let Err(error) = crate::log::answered_soon(self.sweep()).await {
                    tracing::warn!(%error, "the use of limits was not swept up; trying again");
                }
            }
            tokio::time::sleep(Duration::from_millis(PACE_MS)).await;
            let more = Duration::from_millis(ROUND_MS - PACE_MS);
            tokio::time::timeout(more, asking.asked()).await.ok();
            let waiting = asking.take();
            let told = crate::log::answered_soon(self.round()).await;
            if let Err(error) = &told
                && !failed
            {
                tracing::warn!(%error, "rate limits count at this process alone for now");
            }
            failed = told.is_err();
            waiting.tell();
        }
    }

    async fn round(&self) -> Result<(), sqlx::Error> {
        let told = self.limits.to_tell(TOLD_MAX);
        let (mut kinds, mut subjects, mut ns) = (Vec::new(), Vec::new(), Vec::new());
        for (kind, Subject(subject), own_ns) in &told {
            kinds.push(*kind);
            subjects.push(subject.as_slice());
            ns.push(*own_ns);
        }
        let rows: Vec<Row> = sqlx::query_as(include_str!("shared.sql"))
            .bind(self.id)
            .bind(kinds)
            .bind(subjects)
            .bind(ns)
            .bind(OVERLAP_SECONDS)
            .bind(GONE_SECONDS)
            .fetch_all(&self.pool)
            .await?;
        for (kind, subject, own_ns) in &told {
            self.limits.told(*kind, subject, *own_ns);
        }
        for (kind, subject, ns) in rows {
            match (kind, subject.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())) {
                (Some(kind), Some(subject)) => self.limits.shared(kind, &Subject(subject), ns),
                _ => self.limits.counted_by(ns.unsigned_abs()),
            }
        }
        Ok(())
    }

    /// Sweeps up what has flowed back, and who is gone.
    async fn sweep(&self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(
            "delete from rate_use where until < statement_timestamp() - interval '1 minute';
             delete from rate_process where seen_at < statement_timestamp() - interval '1 minute'",
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
