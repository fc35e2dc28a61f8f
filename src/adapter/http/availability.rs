//! Why a process that lives is not ready.
//!
//! Guarantees that a balancer that asks hears of it before requests fail: while the
//! embedded database is started again, and from when this process was told to end until
//! it listens no more.

use std::sync::Arc;

use axum::http::{HeaderValue, header};
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connections::tls::Tls;
use super::problem::Problem;

/// Before a certificate expires there should be this long to get the next one.
const CERTIFICATE_DAYS: i64 = 30;

/// What stands in the way: cheap to clone.
#[derive(Clone)]
pub struct Availability {
    /// Why the database does not answer, where somebody watches it.
    pub away: watch::Receiver<Option<String>>,
    /// This process goes away. What comes is still answered.
    pub draining: CancellationToken,
    /// What is shown to whoever connects.
    pub certificate: Option<Arc<Tls>>,
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

    /// Until when the certificate that is shown is good, if that is soon.
    pub(super) fn expires_soon(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let expires_at = self.certificate.as_ref()?.expires_at();
        (expires_at - now < TimeDelta::days(CERTIFICATE_DAYS)).then_some(expires_at)
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
