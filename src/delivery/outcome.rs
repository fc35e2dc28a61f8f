//! What an attempt led to, and what that means for its delivery.
//!
//! Guarantees that an outcome is recorded once, by the attempt that holds the delivery's
//! number; whether there is a next attempt is decided here and by the schedule, and nowhere
//! else. Does not decide about the endpoint: that is the breaker's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::claim::{Claimed, LEASE_SECONDS};
use super::state::words;

/// What an attempt led to.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub claimed: Claimed,
    pub started_at: DateTime<Utc>,
    pub latency: Duration,
    /// Of the delivery, when the attempt was over.
    pub age: Duration,
    pub status: Option<u16>,
    pub error: Option<String>,
    pub answer_head: Option<String>,
    pub retry_after: Option<Duration>,
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

impl Outcome {
    pub fn delivered(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// The receiver said that it is no more.
    pub fn gone(&self) -> bool {
        self.status == Some(410)
    }

    /// Whether something follows from it that must not wait: the next one of an alert, or
    /// what is done about its endpoint.
    pub fn is_waited_for(&self) -> bool {
        self.claimed.ordered || self.claimed.probe || self.opens || self.gone()
    }

    /// How long until the next attempt, if there is one.
    pub fn retry_in(&self) -> Option<Duration> {
        if self.delivered() {
            return None;
        }
        if self.gone() {
            // It ends with its endpoint, and is handed to the fallbacks before. If that fails
            // it is tried again, and with it the end.
            return Some(Duration::from_secs_f64(LEASE_SECONDS));
        }
        let attempts = (self.claimed.attempts - self.claimed.attempts_before).unsigned_abs();
        self.claimed.schedule.next(attempts, self.age, self.retry_after, self.jitter)
    }

    /// What becomes of its delivery.
    pub fn fate(&self) -> Fate {
        match (self.delivered(), self.gone(), self.retry_in()) {
            (true, ..) => Fate::Delivered,
            (false, false, Some(_)) => Fate::Retry,
            (false, true, _) | (false, _, None) => Fate::Dead,
        }
    }

    /// In short, for people.
    pub fn what(&self) -> String {
        match (self.status, &self.error) {
            (Some(status), _) => format!("it answered {status}"),
            (None, Some(error)) => error.clone(),
            (None, None) => "no answer".to_owned(),
        }
    }

    /// Why the delivery is dead, if it is.
    fn reason(&self) -> Option<String> {
        (self.fate() == Fate::Dead)
            .then(|| format!("given up after {} attempts: {}", self.claimed.attempts, self.what()))
    }
}

/// Writes a batch of outcomes: one statement.
pub(super) async fn record(pool: &PgPool, outcomes: &[Outcome]) -> Result<(), sqlx::Error> {
    fn column<'a, T: 'a>(of: &'a [Outcome], f: impl Fn(&'a Outcome) -> T + 'a) -> Vec<T> {
        of.iter().map(f).collect()
    }
    sqlx::query(include_str!("record.sql"))
        .bind(column(outcomes, |o| o.claimed.shard))
        .bind(column(outcomes, |o| o.claimed.position))
        .bind(column(outcomes, |o| o.claimed.endpoint_id))
        .bind(column(outcomes, |o| o.claimed.attempts))
        .bind(column(outcomes, |o| o.claimed.id))
        .bind(column(outcomes, |o| o.started_at))
        .bind(column(outcomes, |o| i32::try_from(o.latency.as_millis()).unwrap_or(i32::MAX)))
        .bind(column(outcomes, |o| o.status.map(i32::from)))
        .bind(column(outcomes, |o| o.error.as_deref()))
        .bind(column(outcomes, |o| o.answer_head.as_deref()))
        .bind(column(outcomes, Outcome::delivered))
        .bind(column(outcomes, |o| o.retry_in().map(|d| d.as_secs_f64())))
        .bind(column(outcomes, Outcome::reason))
        .execute(pool)
        .await?;
    Ok(())
}

/// Data exceptions and violated constraints: again would be the same.
pub(super) fn is_about_the_data(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code());
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}
