//! What is asked of the history, and why it may have no answer.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};

use crate::log::copy::BadCopy;
use crate::rules::model::Rule;
use crate::vital::Vital;

/// What is asked.
#[derive(Clone)]
pub struct BacktestQuery {
    /// Whose patients.
    pub tenant: String,
    /// Readings measured from here on.
    pub from: DateTime<Utc>,
    /// Until here, not included.
    pub to: DateTime<Utc>,
    /// The rules to try, all at once.
    pub rules: Vec<Arc<Rule>>,
    /// Whether the times of alerts are kept, to compare rules with each other.
    pub keeps_times: bool,
}

impl BacktestQuery {
    /// The vitals that any of its rules looks at.
    pub(super) fn vitals(&self) -> Vec<Vital> {
        Vital::all().filter(|vital| self.rules.iter().any(|rule| rule.concerns(*vital))).collect()
    }

    pub(super) fn looks_at_devices(&self) -> bool {
        self.rules.iter().any(|rule| rule.looks_at_devices())
    }
}

/// Where alerts are written as lines of JSON, of the first rule.
pub type BacktestOutput = Arc<Mutex<dyn std::io::Write + Send>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError {
    /// PostgreSQL said no, or is gone.
    #[error("reading the history: {0}")]
    Database(#[from] sqlx::Error),
    /// It would need readings that are not in the database.
    #[error(
        "the question reaches into {0}, which is archived: ask for what is later, or bring it back"
    )]
    Archived(String),
    /// What PostgreSQL sent is not what was asked for.
    #[error("the history was not understood: {0}")]
    Format(&'static str),
    /// More readings were measured at one moment than can be held.
    #[error("too many readings have the same time: ask for fewer vitals")]
    TooMany,
    /// More than can be remembered: of each rule and patient something is.
    #[error(
        "{rules} rules tried on more than {patients} patients are too many: try fewer settings at once"
    )]
    TooManyTrials {
        /// Of the question.
        rules: usize,
        /// That so many rules can be tried on.
        patients: usize,
    },
    /// The lines could not be written.
    #[error("writing the alerts: {0}")]
    Lines(#[from] std::io::Error),
    /// A worker ended early.
    #[error("a worker panicked")]
    Worker,
    /// It was asked to stop.
    #[error("it was cancelled")]
    Cancelled,
}

impl From<BadCopy> for BacktestError {
    fn from(_: BadCopy) -> BacktestError {
        BacktestError::Format("COPY sent what is not its binary form")
    }
}
