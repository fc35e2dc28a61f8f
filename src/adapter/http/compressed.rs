//! Answers in fewer bytes, for who says that they can read them.
//!
//! Guarantees that what is sent is the same once it is unpacked, that a cache is told by what
//! it differs, and that memory is bounded: an answer is packed while it is sent. Live streams
//! are left as they are, for a packer holds back what it has not filled yet; so is what is
//! small, or packed already.

use std::cmp::Reverse;

use async_compression::Level;
use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZstdEncoder};
use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures_util::TryStreamExt;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

/// A smaller answer fits into a packet or two as it is.
const BYTES_MIN: u64 = 1_024;
/// Brotli's best takes a hundred times as long as this.
const BROTLI_LEVEL: i32 = 4;
/// Media types that are worth it: texts, but no live streams.
const TYPES: [&str; 7] = [
    "application/json",
    "application/problem+json",
    "application/x-ndjson",
    "text/csv",
    "text/html",
    "text/css",
    "text/javascript",
];

/// How an answer can be packed, the one that takes the least time first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Zstd,
    Brotli,
    Gzip,
}

impl Packing {
    const ALL: [Packing; 3] = [Packing::Zstd, Packing::Brotli, Packing::Gzip];

    fn name(self) -> &'static str {
        match self {
            Packing::Zstd => "zstd",
            Packing::Brotli => "br",
            Packing::Gzip => "gzip",
        }
    }

    /// What a request likes best (RFC 9110, 12.5.3); none when it names none of ours.
    pub fn wanted(request: &HeaderMap) -> Option<Packing> {
        let named = request.get_all(header::ACCEPT_ENCODING).iter();
        let named = named.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
        let liked: Vec<(&str, u32)> = named.map(liked).collect();
        let of = |packing: Packing| {
            let by = |name: &str| liked.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            by(packing.name()).or_else(|| by("*")).map_or(0, |(_, thousandths)| *thousandths)
        };
        // Of those that are liked as much, the first.
        let best = Packing::ALL.into_iter().min_by_key(|packing| Reverse(of(*packing)))?;
        (of(best) > 0).then_some(best)
    }

    /// The same answer, packed if that is worth it.
    pub fn pack(wanted: Option<Packing>, answer: Response) -> Response {
        if !is_worth_it(&answer) {
            return answer;
        }
        let (mut parts, body) = answer.into_parts();
        parts.headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
        let Some(packing) = wanted else { return Response::from_parts(parts, body) };
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(packing.name()));
        let read = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
        let body = match packing {
            Packing::Zstd => sent(ZstdEncoder::new(read)),
            Packing::Gzip => sent(GzipEncoder::new(read)),
            Packing::Brotli => {
                sent(BrotliEncoder::with_quality(read, Level::Precise(BROTLI_LEVEL)))
            }
        };
        Response::from_parts(parts, body)
    }
}

fn sent(packed: impl AsyncRead + Send + 'static) -> Body {
    Body::from_stream(ReaderStream::new(packed))
}

/// `br;q=0.5` is liked 500 of 1,000.
fn liked(part: &str) -> (&str, u32) {
    let (name, rest) = part.split_once(';').unwrap_or((part, ""));
    let q = rest.trim().strip_prefix("q=").and_then(|q| q.trim().parse::<f64>().ok());
    (name.trim(), (q.unwrap_or(1.0).clamp(0.0, 1.0) * 1_000.0) as u32)
}

fn is_worth_it(answer: &Response) -> bool {
    let headers = answer.headers();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    TYPES.contains(&kind)
        && !headers.contains_key(header::CONTENT_ENCODING)
        // What may be asked for by ranges has the same bytes for everybody.
        && !headers.contains_key(header::ACCEPT_RANGES)
        && answer.body().size_hint().exact().is_none_or(|bytes| bytes >= BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, text.parse().unwrap());
        Packing::wanted(&headers).map(Packing::name)
    }

    #[test]
    fn what_is_liked_best_is_chosen_and_what_is_not_liked_never() {
        for (text, packing) in [
            ("gzip", Some("gzip")),
            ("gzip, deflate, br", Some("br")),
            ("gzip, deflate, br, zstd", Some("zstd")),
            ("gzip;q=1.0, br;q=0.5", Some("gzip")),
            ("GZIP", Some("gzip")),
            ("*", Some("zstd")),
            ("*;q=0.1, gzip;q=0.2", Some("gzip")),
            ("zstd;q=0, *", Some("br")),
            ("identity", None),
            ("gzip;q=0", None),
            ("deflate", None),
            ("", None),
            ("gzip;q=x", Some("gzip")),
        ] {
            assert_eq!(wanted(text), packing, "{text}");
        }
        assert_eq!(Packing::wanted(&HeaderMap::new()), None);
    }
}
