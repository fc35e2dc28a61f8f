//! `POST /readings`: what devices send.
//!
//! Guarantees that 201 and 207 come after the commit. A 503 may have stored some of
//! the batch: it is sent again as it was, and the log keeps each reading once.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use tokio_util::sync::CancellationToken;

use super::body::{BATCH_BYTES_MAX, Incoming};
use super::ndjson;
use super::problem::Problem;
use super::reply::Reply;
use crate::auth::Caller;
use crate::intake::{Intake, NotTaken, Outcome, ParseError, Patience, Rejected, Why, parse};
use crate::limits::shares::{Holder, Share};
use crate::wire::Stored;

/// What the route stands on.
pub struct Readings {
    pub(super) intake: Intake,
    pub(super) uploads: Share,
    /// Ends streams.
    pub(super) stop: CancellationToken,
}

/// Stores readings.
pub async fn store(
    State(readings): State<Arc<Readings>>,
    Extension(caller): Extension<Arc<Caller>>,
    mut body: Incoming,
) -> Result<Reply<Stored>, Problem> {
    // Before anything of the body is read.
    if let Err(denied) = caller.may("readings:write") {
        body.discard().await;
        return Err(denied.into());
    }
    if body.is_ndjson() {
        let _place = match readings.uploads.lend(&Holder::of(&caller), 1) {
            Ok(place) => place,
            Err(used_up) => {
                body.discard().await;
                return Err(used_up.into());
            }
        };
        // Boxed, as what is rare: it is larger than all that an array needs.
        return Box::pin(ndjson::store(&readings, &caller, body)).await;
    }
    let body = body.whole(BATCH_BYTES_MAX).await?;
    let mut batch = readings.intake.batch(&caller);
    parse(&body, &mut batch).map_err(refuse)?;
    // Others may need what it took of the budget while this one waits for its commit.
    drop(body);
    let outcome = readings.intake.submit(batch, Patience::None).await?;
    let Outcome { stored, duplicates, rejected } = outcome;
    answer(stored, duplicates.len(), Rejections::of(rejected))
}

impl From<NotTaken> for Problem {
    fn from(not_taken: NotTaken) -> Problem {
        not_taken.why.into()
    }
}

impl From<Why> for Problem {
    fn from(why: Why) -> Problem {
        match why {
            Why::Denied(denied) => denied.into(),
            Why::Limited(limited) => limited.into(),
            Why::Unwritten(error) => error.into(),
        }
    }
}

/// What was not stored, and why. Of many only the first are told.
#[derive(Default)]
pub(super) struct Rejections {
    told: Vec<Rejected>,
    count: usize,
    outside_token: usize,
}

impl Rejections {
    fn of(rejected: Vec<Rejected>) -> Rejections {
        let mut rejections = Rejections::default();
        rejected.into_iter().for_each(|rejected| rejections.add(rejected, usize::MAX));
        rejections
    }

    /// Counts it, and keeps it if fewer than `told_max` are kept.
    pub(super) fn add(&mut self, rejected: Rejected, told_max: usize) {
        self.count += 1;
        self.outside_token += usize::from(rejected.code == "outside_token");
        if self.told.len() < told_max {
            self.told.push(rejected);
        }
    }

    /// How many there are, where not all are told.
    fn total(&self) -> Option<usize> {
        (self.told.len() < self.count).then_some(self.count)
    }

    /// Adds them to a problem.
    pub(super) fn told_in(self, problem: Problem) -> Problem {
        problem.with(|document| {
            document.rejected_total = self.total();
            document.rejected = Some(self.told);
        })
    }
}

/// The answer to a body that was read to its end.
pub(super) fn answer(
    stored: usize,
    duplicates: usize,
    rejections: Rejections,
) -> Result<Reply<Stored>, Problem> {
    let status = match rejections.told.first() {
        Some(first) if stored + duplicates == 0 => {
            let first = first.clone();
            return Err(nothing_stored(&first, rejections));
        }
        Some(_) => StatusCode::MULTI_STATUS,
        None => StatusCode::CREATED,
    };
    let (rejected_total, rejected) = (rejections.total(), rejections.told);
    Reply::new(status, &Stored { stored, duplicates, rejected, rejected_total })
}

fn nothing_stored(first: &Rejected, rejections: Rejections) -> Problem {
    if rejections.outside_token == rejections.count {
        return Problem::forbidden("outside_token", first.detail.clone());
    }
    let detail = match rejections.count {
        1 => first.detail.clone(),
        n => format!("none of {n} readings can be stored; the first: {}", first.detail),
    };
    let problem = Problem::invalid(first.code, &first.pointer, detail).with(|document| {
        document.stored = Some(0);
        document.duplicates = Some(0);
    });
    rejections.told_in(problem)
}

fn refuse(error: ParseError) -> Problem {
    let detail = error.to_string();
    match error {
        ParseError::NotUtf8 { .. } => Problem::unreadable("not_utf8", detail),
        ParseError::NotJson(_) => Problem::unreadable("unreadable_json", detail),
        ParseError::NeitherObjectNorArray => Problem::invalid("not_readings", "", detail),
        ParseError::Empty => Problem::invalid("empty_batch", "", detail),
        ParseError::TooMany(_) => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "batch_too_large", detail)
        }
    }
}
