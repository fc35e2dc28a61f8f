//! Headers of an endpoint's own.
//!
//! Guarantees that none takes the place of what vitals or HTTP itself sets, and that no debug
//! output holds a value. Does not keep them: that is the endpoint's row, sealed.

use std::collections::HashMap;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// Words of secret headers that are hidden in what a receiver answers; shorter ones would
/// be found everywhere.
const HIDDEN_BYTES_MIN: usize = 6;
/// Headers of an endpoint's own.
pub const HEADERS_MAX: usize = 20;
/// All their names and values together.
pub const HEADERS_BYTES_MAX: usize = 4_096;

/// What HTTP itself needs, beside everything that begins with `webhook-`, `proxy-`.
const RESERVED: [&str; 11] = [
    "host",
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
];

/// Headers of an endpoint's own: an `Authorization` for its gateway, a route, a ward.
#[derive(Clone, Debug, Default)]
pub struct Headers(HeaderMap);

/// Why they cannot be headers.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum HeadersError {
    #[error("no object of texts: {0}")]
    Json(#[from] serde_json::Error),
    #[error("\"{0}\" is no name of a header")]
    Name(String),
    #[error("\"{0}\" is set by vitals or by HTTP itself, and cannot be another")]
    Reserved(String),
    #[error("the value of \"{0}\" holds what a header cannot (a line's end, or more than ASCII)")]
    Value(String),
    #[error("\"{0}\" is there twice")]
    Twice(String),
    #[error("{HEADERS_MAX} headers with {HEADERS_BYTES_MAX} bytes together at most")]
    TooMany,
}

impl HeadersError {
    /// The name that it is about.
    pub fn name(&self) -> Option<&str> {
        match self {
            HeadersError::Name(name)
            | HeadersError::Reserved(name)
            | HeadersError::Value(name)
            | HeadersError::Twice(name) => Some(name),
            HeadersError::Json(_) | HeadersError::TooMany => None,
        }
    }
}

impl Headers {
    /// Reads names and values.
    pub fn read<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Headers, HeadersError> {
        let (mut map, mut bytes) = (HeaderMap::new(), 0);
        for (name, value) in pairs {
            let no = || name.to_owned();
            bytes += name.len() + value.len();
            let known: HeaderName = name.parse().map_err(|_| HeadersError::Name(no()))?;
            let lower = known.as_str();
            if RESERVED.contains(&lower)
                || ["webhook-", "proxy-"].iter().any(|ours| lower.starts_with(ours))
            {
                return Err(HeadersError::Reserved(no()));
            }
            let mut value: HeaderValue = value.parse().map_err(|_| HeadersError::Value(no()))?;
            // So that no debug output of a client ever holds it.
            value.set_sensitive(true);
            if value.to_str().is_err() {
                return Err(HeadersError::Value(no()));
            }
            if map.insert(known, value).is_some() {
                return Err(HeadersError::Twice(no()));
            }
        }
        match map.len() > HEADERS_MAX || bytes > HEADERS_BYTES_MAX {
            true => Err(HeadersError::TooMany),
            false => Ok(Headers(map)),
        }
    }

    /// A text of the receiver's, without what only it and we know: some answer with what
    /// they were sent, and what they answer is shown.
    pub(super) fn hidden_in(&self, mut text: String) -> String {
        for word in self.0.values().filter_map(|v| v.to_str().ok()).flat_map(str::split_whitespace)
        {
            if word.len() >= HIDDEN_BYTES_MIN {
                text = text.replace(word, "…");
            }
        }
        text
    }

    /// Reads what [`Headers::to_json`] wrote.
    pub fn of_json(json: &str) -> Result<Headers, HeadersError> {
        let pairs: HashMap<String, String> = serde_json::from_str(json)?;
        Headers::read(pairs.iter().map(|(name, value)| (&**name, &**value)))
    }

    /// All of them, to be kept sealed; `None` when there are none.
    pub fn to_json(&self) -> Option<String> {
        let pair = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.to_str().unwrap_or_default().into())
        };
        let pairs: serde_json::Map<_, serde_json::Value> = self.0.iter().map(pair).collect();
        (!pairs.is_empty()).then(|| serde_json::Value::from(pairs).to_string())
    }

    /// As a request takes them.
    pub(super) fn to_map(&self) -> HeaderMap {
        self.0.clone()
    }

    /// Their names, which are no secret.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().map(HeaderName::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(name: &str, value: &str, expect: &str) {
        let error = Headers::read([(name, value)]).unwrap_err().to_string();
        assert!(error.contains(expect), "{name}: {error}");
    }

    #[test]
    fn no_header_takes_the_place_of_ours_or_of_http() {
        for name in ["Host", "webhook-id", "Webhook-Signature", "webhook-x", "Content-Type"] {
            refused(name, "x", "set by vitals");
        }
        for name in ["connection", "Transfer-Encoding", "Proxy-Authorization", "content-length"] {
            refused(name, "x", "set by vitals");
        }
        refused("a b", "x", "no name");
        refused("", "x", "no name");
        refused("x-ward", "a\r\nhost: evil", "line's end");
        refused("x-ward", "stationär", "ASCII");
        refused("x-ward", &"x".repeat(HEADERS_BYTES_MAX), "4096 bytes");
        let twice = Headers::read([("X-Ward", "a"), ("x-ward", "b")]);
        assert!(matches!(twice, Err(HeadersError::Twice(_))));
        let many: Vec<String> = (0..=HEADERS_MAX).map(|n| format!("x-{n}")).collect();
        let many = Headers::read(many.iter().map(|name| (&**name, "x")));
        assert!(matches!(many, Err(HeadersError::TooMany)));
    }

    #[test]
    fn headers_are_kept_as_they_were_sent() {
        let headers = Headers::read([("Authorization", "Bearer abc"), ("X-Ward", "4b")]).unwrap();
        let again = Headers::of_json(&headers.to_json().unwrap()).unwrap();
        assert_eq!(again.0, headers.0);
        assert_eq!(Headers::default().to_json(), None);
        let mut names = headers.names();
        names.sort();
        assert_eq!(names, ["authorization", "x-ward"]);
        assert!(!format!("{headers:?}").contains("abc"));
    }
}
