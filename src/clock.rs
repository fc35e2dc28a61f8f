//! Time as an argument.
//!
//! Guarantees that everything that decides by the wall clock was handed it, so
//! that a test can hand it another. Does not order events: that is the log's
//! `recorded_at`, which PostgreSQL assigns under the shard's lock.

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};

/// The farthest time that PostgreSQL and RFC 3339 both know.
pub const END_OF_TIME: DateTime<Utc> =
    match DateTime::from_timestamp_micros(253_402_300_799_999_999) {
        Some(time) => time,
        None => DateTime::<Utc>::MAX_UTC,
    };

/// Where "now" comes from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl Clock {
    /// The machine's clock.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that may ask the machine for the time"
    )]
    pub fn system() -> Clock {
        Clock(Arc::new(Utc::now))
    }

    /// The machine's clock moved by a fixed offset, for tests of tokens and delays.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that may ask the machine for the time"
    )]
    pub fn shifted(by: Duration) -> Clock {
        Clock(Arc::new(move || Utc::now() + by))
    }

    /// The time, to the microsecond that PostgreSQL keeps.
    pub fn now(&self) -> DateTime<Utc> {
        truncate_to_micros((self.0)())
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// Drops what PostgreSQL's `timestamptz` cannot keep, so that a time compares
/// equal before and after it was stored.
pub fn truncate_to_micros(t: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(t.timestamp_micros()).unwrap_or(t)
}

/// RFC 3339 in UTC with as many fractional digits as needed (none, 3 or 6).
pub fn rfc3339(t: DateTime<Utc>) -> String {
    t.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}
