//! The ward's page: static files inside the binary.
//!
//! Guarantees that the page loads nothing from anywhere else. Shows no data by
//! itself: it asks the API with the token of whoever looks.

use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const FILES: [(&str, &str, &str); 9] = [
    ("/", "text/html; charset=utf-8", include_str!("../../../web/index.html")),
    ("/ward.css", "text/css; charset=utf-8", include_str!("../../../web/ward.css")),
    ("/ward.js", "text/javascript; charset=utf-8", include_str!("../../../web/ward.js")),
    ("/feed.js", "text/javascript; charset=utf-8", include_str!("../../../web/feed.js")),
    ("/tile.js", "text/javascript; charset=utf-8", include_str!("../../../web/tile.js")),
    ("/docs", "text/html; charset=utf-8", include_str!("../../../web/docs.html")),
    ("/docs.css", "text/css; charset=utf-8", include_str!("../../../web/docs.css")),
    ("/docs.js", "text/javascript; charset=utf-8", include_str!("../../../web/docs.js")),
    ("/favicon.svg", "image/svg+xml", include_str!("../../../web/favicon.svg")),
];

/// What the ward's page begins with, and how it begins where the patients are made up.
const WARD: &str = "<html lang=\"en\">";
const SIMULATED_WARD: &str = "<html lang=\"en\" data-simulated>";

/// One route a file.
pub fn routes(is_simulated: bool) -> Router {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        let text = match (path, is_simulated) {
            ("/", true) => text.replacen(WARD, SIMULATED_WARD, 1),
            _ => text.to_owned(),
        };
        let text = Bytes::from(text);
        router.route(path, get(move || async move { file(kind, text) }))
    })
}

fn file(kind: &'static str, text: Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        // A new version must not meet an old half of itself.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}
