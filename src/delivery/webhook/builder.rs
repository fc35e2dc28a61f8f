//! What every HTTP client that calls endpoints has in common: its limits.
//!
//! Guarantees that an answer is bounded in time and size, and that an answer which says that
//! the page has arrived is read as that, however it is written.

use std::time::Duration;

use super::guard::Guard;

/// An answer later than this is none.
pub const TIMEOUT_MS: u64 = 5_000;
/// Headers of an answer.
const ANSWER_HEADERS_MAX: usize = 1_000;
/// All headers of an answer by HTTP/2. By HTTP/1 it is what its client reads at once, about
/// as much.
const ANSWER_HEAD_BYTES_MAX: u32 = 256 * 1_024;

/// A client in the making, for what `guard` permits. A 2xx is a 2xx, however its headers
/// are written and whatever a gateway puts around them: the same page again helps no one.
pub(super) fn client_builder(guard: &Guard) -> reqwest::ClientBuilder {
    guard
        .client()
        .timeout(Duration::from_millis(TIMEOUT_MS))
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_max_headers(ANSWER_HEADERS_MAX)
        .http2_max_header_list_size(ANSWER_HEAD_BYTES_MAX)
        .user_agent(concat!("vitals/", env!("CARGO_PKG_VERSION")))
}
