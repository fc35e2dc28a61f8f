//! What is said of a route that will go: `Deprecation` (RFC 9745), `Sunset` (RFC 8594), and a
//! `Link` to what takes its place.
//!
//! Guarantees that every answer of a marked route has them, also a refusal. Does not take
//! anything away.

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;

use super::openapi::operation::{Deprecated, Operation, Operations};

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// The same routes, of which those that are marked in the table say so.
pub fn marked(router: Router, all: &'static [Operation]) -> Router {
    if all.iter().all(|of| of.deprecated.is_none()) {
        return router;
    }
    router.layer(middleware::from_fn_with_state(Operations(all), told))
}

async fn told(State(Operations(all)): State<Operations>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let path = path.as_deref().unwrap_or_default();
    let path = path.strip_prefix("/api/v1").unwrap_or(path);
    let method = request.method().as_str();
    let of = all.iter().find(|of| of.path == path && of.method.eq_ignore_ascii_case(method));
    let deprecated = of.and_then(|of| of.deprecated);
    let mut answer = next.run(request).await;
    if let Some(Deprecated { since, sunset, instead }) = deprecated {
        let link = format!("<{instead}>; rel=\"successor-version\"");
        let told = [
            (DEPRECATION, HeaderValue::try_from(format!("@{since}"))),
            (SUNSET, HeaderValue::try_from(sunset)),
            (header::LINK, HeaderValue::try_from(link)),
        ];
        for (name, value) in told {
            if let Ok(value) = value {
                answer.headers_mut().append(name, value);
            }
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::routing::get;
    use tower_service::Service;

    use super::*;
    use crate::adapter::http::openapi::operation::by_anybody;

    #[tokio::test]
    async fn a_marked_route_says_until_when_it_is_there_and_what_comes_after_it() {
        const MARKED: Deprecated = Deprecated {
            since: 1_767_225_600,
            sunset: "Fri, 01 Jan 2027 00:00:00 GMT",
            instead: "/api/v2/old",
        };
        static ALL: [Operation; 2] =
            [by_anybody("get", "/old/{id}", "").until(MARKED), by_anybody("get", "/new/{id}", "")];
        let v1 = Router::new()
            .route("/old/{id}", get(async || StatusCode::NOT_FOUND))
            .route("/new/{id}", get(async || StatusCode::OK));
        let mut router = Router::new().nest("/api/v1", marked(v1, &ALL));
        let mut said = async |path: &str| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let answer = Service::<Request>::call(&mut router, request).await.unwrap();
            let header = |name| answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
            [header(DEPRECATION), header(SUNSET), header(header::LINK)]
        };
        let told = ["@1767225600", MARKED.sunset, "</api/v2/old>; rel=\"successor-version\""];
        assert_eq!(said("/api/v1/old/7").await, told.map(|text| Some(text.to_owned())));
        assert_eq!(said("/api/v1/new/7").await, [None, None, None]);
    }
}
