//! Attempts: what each led to, and what that means for its delivery.
//!
//! Guarantees that an attempt is recorded once, by the attempt that holds the delivery's
//! number; whether there is a next attempt is decided here and by the schedule, and nowhere
//! else. Does not decide about the endpoint: that is the breaker's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::claim::{Claimed, LEASE_SECONDS};
use super::state::words;
use super::transport::{AttemptOutcome, Verdict};

/// An attempt that is over.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub claimed: Claimed,
    pub started_at: DateTime<Utc>,
    pub latency: Duration,
    /// Of the delivery, when the attempt was over.
    pub age: Duration,
    /// What the transport says of it.
    pub outcome: AttemptOutcome,
    /// For the jitter of the next attempt, 0–1.
    pub jitter: f64,
    /// Whether its endpoint is to be held for broken now.
    pub opens: bool,
}

words! {
    /// What becomes of a delivery after an attempt.
    Fate {
        /// The endpoint took it.
        Delivered = "delivered",
        /// It is tried again.
        Retry = "retry",
        /// It is given up, or ends with its endpoint.
        Dead = "dead",
    }
}

impl Attempt {
    /// The least time until the next one that the receiver asks for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.outcome.verdict {
            Verdict::Retry { after, .. } => after,
            Verdict::Delivered | Verdict::Gone { .. } => None,
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self.outcome.verdict, Verdict::Gone { .. })
    }

    /// Whether something follows from it that must not wait: the next one of an alert, or
    /// what is done about its endpoint.
    pub fn is_waited_for(&self) -> bool {
        self.claimed.ordered || self.claimed.probe || self.opens || self.is_gone()
    }

    /// How long until the next attempt, if there is one.
    pub fn retry_in(&self) -> Option<Duration> {
        match self.outcome.verdict {
            Verdict::Delivered => None,
            // It ends with its endpoint, and is handed to the fallbacks before. If that fails
            // it is tried again, and with it the end.
            Verdict::Gone { .. } => Some(Duration::from_secs_f64(LEASE_SECONDS)),
            Verdict::Retry { after, .. } => {
                let claimed = &self.claimed;
                let attempts = (claimed.attempts - claimed.attempts_before).unsigned_abs();
                claimed.schedule.next(attempts, self.age, after, self.jitter)
            }
        }
    }

    /// What becomes of its delivery.
    pub fn fate(&self) -> Fate {
        match (&self.outcome.verdict, self.retry_in()) {
            (Verdict::Delivered, _) => Fate::Delivered,
            (Verdict::Retry { .. }, Some(_)) => Fate::Retry,
            (Verdict::Retry { .. }, None) | (Verdict::Gone { .. }, _) => Fate::Dead,
        }
    }

    /// Why the delivery is dead, if it is.
    fn reason(&self) -> Option<String> {
        let reason = self.outcome.reason().filter(|_| self.fate() == Fate::Dead)?;
        Some(format!("given up after {} attempts: {reason}", self.claimed.attempts))
    }
}

/// Records a batch of attempts: one statement.
pub(super) async fn record(pool: &PgPool, attempts: &[Attempt]) -> Result<(), sqlx::Error> {
    fn column<'a, T: 'a>(of: &'a [Attempt], f: impl Fn(&'a Attempt) -> T + 'a) -> Vec<T> {
        of.iter().map(f).collect()
    }
    sqlx::query(include_str!("record.sql"))
        .bind(column(attempts, |a| a.claimed.shard))
        .bind(column(attempts, |a| a.claimed.position))
        .bind(column(attempts, |a| a.claimed.endpoint_id))
        .bind(column(attempts, |a| a.claimed.attempts))
        .bind(column(attempts, |a| a.claimed.id))
        .bind(column(attempts, |a| a.started_at))
        .bind(column(attempts, |a| i32::try_from(a.latency.as_millis()).unwrap_or(i32::MAX)))
        .bind(column(attempts, |a| a.outcome.status.map(i32::from)))
        .bind(column(attempts, |a| a.outcome.error()))
        .bind(column(attempts, |a| a.outcome.answer_head.as_deref()))
        .bind(column(attempts, |a| a.outcome.is_delivered()))
        .bind(column(attempts, |a| a.retry_in().map(|d| d.as_secs_f64())))
        .bind(column(attempts, Attempt::reason))
        .execute(pool)
        .await?;
    Ok(())
}

/// Data exceptions and violated constraints: again would be the same.
pub(super) fn is_about_the_data(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code());
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}
