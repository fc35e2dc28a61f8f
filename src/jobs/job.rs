//! What a job is, and how it stands.
//!
//! Guarantees that what is stored is read again, and that a word which this version does
//! not know is an error. Does not ask the database.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgPool};
use tokio::sync::Notify;
use uuid::Uuid;

/// Jobs of a tenant that wait or run.
pub const OPEN_PER_TENANT_MAX: i64 = 20;
/// Jobs of the installation that wait or run.
pub const OPEN_MAX: i64 = 1_000;
/// Jobs of a tenant that are kept after their end; the oldest go first.
pub const KEPT_PER_TENANT_MAX: i64 = 100;
/// How long a job is kept after its end.
pub const KEPT_HOURS: i32 = 24;
/// What a job's result may be long, as JSON.
pub const RESULT_BYTES_MAX: usize = 1024 * 1024;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Rules tried over the recorded history.
    Backtest,
    /// A device's readings moved to the patient whom it really measured.
    Reassign,
    /// Readings written as one table.
    Export,
}

impl JobKind {
    /// All of them.
    pub const ALL: [JobKind; 3] = [JobKind::Backtest, JobKind::Reassign, JobKind::Export];

    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            JobKind::Backtest => "backtest",
            JobKind::Reassign => "reassign",
            JobKind::Export => "export",
        }
    }

    /// Whether it must come to an end of its own, once it has begun: it is begun again however
    /// often whoever runs it dies, and who cancels it asks it to undo what it did.
    pub fn ends_itself(self) -> bool {
        match self {
            JobKind::Backtest | JobKind::Export => false,
            JobKind::Reassign => true,
        }
    }

    /// The names of those.
    pub(super) fn ending_themselves() -> Vec<&'static str> {
        JobKind::ALL.into_iter().filter(|kind| kind.ends_itself()).map(JobKind::name).collect()
    }
}

/// How a job stands. Waiting → running → done, failed or cancelled; back to waiting when
/// whoever runs it stops, or could not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum JobState {
    Waiting,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl JobState {
    /// All of them.
    pub const ALL: [JobState; 5] = [
        JobState::Waiting,
        JobState::Running,
        JobState::Done,
        JobState::Failed,
        JobState::Cancelled,
    ];

    /// As it is stored and told.
    pub fn name(self) -> &'static str {
        match self {
            JobState::Waiting => "waiting",
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }
}

/// A word in the table that this version does not know.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is no job's kind or state that this version knows")]
pub struct Unknown(String);

impl TryFrom<String> for JobKind {
    type Error = Unknown;

    fn try_from(name: String) -> Result<JobKind, Unknown> {
        JobKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or(Unknown(name))
    }
}

impl TryFrom<String> for JobState {
    type Error = Unknown;

    fn try_from(name: String) -> Result<JobState, Unknown> {
        JobState::ALL.into_iter().find(|state| state.name() == name).ok_or(Unknown(name))
    }
}

/// A job, as it stands.
#[derive(Clone, Debug, FromRow)]
pub struct Job {
    /// Its id.
    pub id: Uuid,
    /// What is done.
    #[sqlx(try_from = "String")]
    pub kind: JobKind,
    /// How it stands.
    #[sqlx(try_from = "String")]
    pub state: JobState,
    /// Who asked for it.
    pub asked_by: String,
    /// When.
    pub asked_at: DateTime<Utc>,
    /// When somebody first began with it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was over.
    pub ended_at: Option<DateTime<Utc>>,
    /// How far it is.
    pub done: i64,
    /// Of how much; 0 before that is known.
    pub total: i64,
    /// What came of it, as JSON.
    pub result: Option<String>,
    /// Why nothing came of it.
    pub error: Option<String>,
}

/// What somebody wants done.
#[derive(Clone, Copy, Debug)]
pub struct JobRequest<'a> {
    /// Whose it will be.
    pub tenant: &'a str,
    /// What.
    pub kind: JobKind,
    /// With what: understood by who does it, and judged before.
    pub argument: &'a Value,
    /// Who asks.
    pub by: &'a str,
}

/// Why a job was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The tenant has as many as it may.
    #[error("{OPEN_PER_TENANT_MAX} jobs of yours wait or run: let one end, or cancel one")]
    TenantFull,
    /// The installation has as many as it may.
    #[error("{OPEN_MAX} jobs wait or run here: ask again later")]
    Full,
    /// PostgreSQL said no, or is gone.
    #[error("accepting a job: {0}")]
    Database(#[from] sqlx::Error),
}

/// The jobs of an installation: cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    pub(super) pool: PgPool,
    /// A hint for who runs jobs in this process; others look by themselves.
    pub(super) asked: Arc<Notify>,
}

impl Jobs {
    /// Those of a database.
    pub fn new(pool: PgPool) -> Jobs {
        Jobs { pool, asked: Arc::default() }
    }

    /// The same over other connections.
    pub fn with_pool(&self, pool: PgPool) -> Jobs {
        Jobs { pool, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_again_and_a_foreign_word_is_an_error() {
        for state in JobState::ALL {
            assert_eq!(JobState::try_from(state.name().to_owned()).unwrap(), state);
        }
        for kind in JobKind::ALL {
            assert_eq!(JobKind::try_from(kind.name().to_owned()).unwrap(), kind);
        }
        assert!(JobState::try_from("paused".to_owned()).is_err());
        assert!(JobKind::try_from("import".to_owned()).is_err());
    }
}
