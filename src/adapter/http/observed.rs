//! Requests in numbers: how many, how they were answered, and how long that took.
//!
//! Guarantees that each request under a route is counted once, however it was answered, and
//! that nobody can make up labels: methods and routes are those of the table of contents, and
//! codes those of the program. What is measured ends where the answer begins: a stream takes
//! as long as its reader wants.

use std::sync::OnceLock;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use metrics::{Counter, Histogram};

use super::problem::ProblemText;

/// Where readings go.
pub const READINGS: &str = "/api/v1/readings";
/// Where a request goes that finds no route.
const NO_ROUTE: &str = "none";

/// A request under way.
pub struct Observed {
    began: Instant,
    method: &'static str,
    route: Option<MatchedPath>,
}

impl Observed {
    /// From its beginning on.
    pub fn begin(request: &Request) -> Observed {
        Observed {
            began: Instant::now(),
            method: method_name(request.method()),
            route: request.extensions().get().cloned(),
        }
    }

    /// It is answered.
    pub fn answered(self, answer: &Response) {
        let route = self.route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str).to_owned();
        let (requests, seconds) = handles(self.method, route, answer.status());
        count(&requests, &seconds, self.began, answer);
    }
}

/// Readings, which are most of what comes and need no labels made.
pub struct ObservedReadings(Instant);

impl ObservedReadings {
    /// From its beginning on.
    pub fn begin() -> ObservedReadings {
        ObservedReadings(Instant::now())
    }

    /// They are answered.
    pub fn answered(self, route: &'static str, answer: &Response) {
        static STORED: OnceLock<(Counter, Histogram)> = OnceLock::new();
        if answer.status() == StatusCode::CREATED {
            let (requests, seconds) =
                STORED.get_or_init(|| handles("POST", route.to_owned(), StatusCode::CREATED));
            return count(requests, seconds, self.0, answer);
        }
        let (requests, seconds) = handles("POST", route.to_owned(), answer.status());
        count(&requests, &seconds, self.0, answer);
    }
}

fn handles(method: &'static str, route: String, status: StatusCode) -> (Counter, Histogram) {
    let status = status.as_str().to_owned();
    let requests = metrics::counter!("vitals_http_requests_total",
        "method" => method, "route" => route.clone(), "status" => status);
    let seconds =
        metrics::histogram!("vitals_http_request_seconds", "method" => method, "route" => route);
    (requests, seconds)
}

fn count(requests: &Counter, seconds: &Histogram, began: Instant, answer: &Response) {
    requests.increment(1);
    seconds.record(began.elapsed());
    if let Some(ProblemText { code, .. }) = answer.extensions().get() {
        metrics::counter!("vitals_http_problems_total", "code" => *code).increment(1);
    }
}

/// A method, in words that nobody can make up.
pub fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
