//! Why a process that lives is not ready.
//!
//! Guarantees that a balancer that asks hears of it before requests fail: while the
//! embedded database is started again, and from when this process was told to end until
//! it listens no more.

use axum::http::{HeaderValue, header};
use axum::response::Response;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;

/// What stands in the way: cheap to clone.
#[derive(Clone, Debug)]
pub struct Availability {
    /// Why the database does not answer, where somebody watches it.
    pub away: watch::Receiver<Option<String>>,
    /// This process goes away. What comes is still answered.
    pub draining: CancellationToken,
}

impl Availability {
    /// An error while something does.
    pub(super) fn is_clear(&self) -> Result<(), Problem> {
        if self.draining.is_cancelled() {
            let detail = "this process goes away: send to another one";
            return Err(Problem::unavailable("stopping", detail));
        }
        match &*self.away.borrow() {
            None => Ok(()),
            Some(why) => {
                let detail = format!("the embedded database is away and is started again: {why}");
                Err(Problem::unavailable("database_away", detail))
            }
        }
    }

    /// An answer of a process that goes away is the last one on its connection: who keeps
    /// connections sends the next request elsewhere, and not into one that is closed.
    pub(super) fn parting(&self, mut response: Response) -> Response {
        if self.draining.is_cancelled() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
