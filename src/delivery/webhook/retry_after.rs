//! How long an answer asks to be waited for.
//!
//! Guarantees that a Retry-After is read in both forms that RFC 9110 has, and that another
//! text is as if none had been sent. Sets no cap: that is the schedule's.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};

/// The three forms of an HTTP date that RFC 9110 (5.6.7) has receivers read.
const HTTP_DATES: [&str; 3] =
    ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];

/// Reads a Retry-After: seconds, or a date (then the time until it; none left if it
/// has passed). `None` for anything else, which is then as if it had not been sent.
pub(super) fn parse_retry_after(header: &str, now: DateTime<Utc>) -> Option<Duration> {
    let header = header.trim();
    if !header.is_empty() && header.bytes().all(|b| b.is_ascii_digit()) {
        // A number too large for a u64 still means "later than any cap".
        return Some(Duration::from_secs(header.parse().unwrap_or(u64::MAX)));
    }
    HTTP_DATES
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(header, form).ok())
        .map(|date| (date.and_utc() - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let now = "1994-11-06T08:49:00Z".parse().unwrap();
        for (header, expect) in [
            ("120", Some(s(120))),
            (" 0 ", Some(s(0))),
            ("99999999999999999999999", Some(s(u64::MAX))),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(s(37))),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(s(37))),
            ("Sun Nov  6 08:49:37 1994", Some(s(37))),
            ("Sun, 06 Nov 1994 08:48:00 GMT", Some(s(0))),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("Mon, 06 Nov 1994 08:49:37 GMT", None),
        ] {
            assert_eq!(parse_retry_after(header, now), expect, "{header}");
        }
    }
}
