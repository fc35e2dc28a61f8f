//! What who sends readings is told: what was stored, what was not, and why.
//!
//! Guarantees that every rejected item is counted, also where only the first are told.

use axum::http::StatusCode;

use super::problem::Problem;
use super::reply::Reply;
use crate::intake::{NotTaken, Rejected, Why};
use crate::wire::Stored;

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
    pub(super) fn of(rejected: Vec<Rejected>) -> Rejections {
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
