//! Which bytes of a whole somebody asks for (RFC 9110, 14).
//!
//! Guarantees that what is not one range of bytes, or is of other bytes than these, is answered
//! with the whole, as the RFC allows. Does not make an answer.

use axum::http::{HeaderMap, HeaderName, header};

/// What of a whole is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it.
    Whole,
    /// From the first of these bytes to the last, which are there.
    Part(i64, i64),
    /// Bytes that it does not have.
    Nothing,
}

impl Wanted {
    /// Of so many bytes with this strong ETag.
    pub fn of(headers: &HeaderMap, tag: &str, length: i64) -> Wanted {
        let range = text(headers, header::RANGE).and_then(|text| text.split_once('='));
        let is_same = text(headers, header::IF_RANGE).is_none_or(|known| known == tag);
        match range {
            Some((unit, range)) if is_same && unit.eq_ignore_ascii_case("bytes") => {
                one(range.trim(), length).unwrap_or(Wanted::Whole)
            }
            _ => Wanted::Whole,
        }
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// One range; several are none, and so is what cannot be read.
fn one(range: &str, length: i64) -> Option<Wanted> {
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // What is more than can be counted is beyond any end.
        is_number.then(|| text.parse().unwrap_or(i64::MAX))
    };
    let (first, last) = range.split_once('-')?;
    let (first, last) = match (first.is_empty(), last.is_empty()) {
        (true, _) => (length.saturating_sub(number(last)?).max(0), i64::MAX),
        (false, true) => (number(first)?, i64::MAX),
        (false, false) => (number(first)?, number(last)?),
    };
    if first > last {
        return None;
    }
    let last = last.min(length - 1);
    Some(if first <= last { Wanted::Part(first, last) } else { Wanted::Nothing })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(range: &str, if_range: Option<&str>, length: i64) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        if let Some(tag) = if_range {
            headers.insert(header::IF_RANGE, tag.parse().unwrap());
        }
        Wanted::of(&headers, "\"tag\"", length)
    }

    #[test]
    fn one_range_is_understood_and_what_is_not_is_the_whole() {
        use Wanted::{Nothing, Part, Whole};
        for (range, expected) in [
            ("bytes=0-0", Part(0, 0)),
            ("bytes=2-4", Part(2, 4)),
            ("bytes=2-", Part(2, 9)),
            ("bytes=-3", Part(7, 9)),
            ("bytes=-99", Part(0, 9)),
            ("Bytes= 9-99999999999999999999", Part(9, 9)),
            ("bytes=10-", Nothing),
            ("bytes=99999999999999999999-", Nothing),
            ("bytes=-0", Nothing),
            ("bytes=4-2", Whole),
            ("bytes=0-1,4-5", Whole),
            ("bytes=", Whole),
            ("bytes=-", Whole),
            ("bytes=a-b", Whole),
            ("bytes=+1-2", Whole),
            ("lines=1-2", Whole),
            ("2-4", Whole),
        ] {
            assert_eq!(wanted(range, None, 10), expected, "{range}");
        }
        assert_eq!(wanted("bytes=0-", None, 0), Nothing);
        assert_eq!(wanted("bytes=-5", None, 0), Nothing);
        assert_eq!(wanted("bytes=2-4", Some("\"tag\""), 10), Part(2, 4));
        for other in ["\"old\"", "W/\"tag\"", "Mon, 30 Nov 2026 16:00:00 GMT"] {
            assert_eq!(wanted("bytes=2-4", Some(other), 10), Whole, "{other}");
        }
        assert_eq!(Wanted::of(&HeaderMap::new(), "\"tag\"", 10), Whole);
    }
}
