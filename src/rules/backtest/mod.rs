//! Backtest: what rules would have raised over the recorded history, before they may
//! page anybody.
//!
//! Guarantees that the same [`super::step()`] judges as live, every reading as if it had
//! come at once, in the order in which it was measured; several rules are tried over one
//! reading of the history; memory is bounded by [`rows::ROWS_HELD_MAX`] a worker and
//! does not grow with the history. Writes nothing.
//!
//! Looks at each rule alone: it is not inhibited by others, nor held by a silent device.
//! Of a patient's record (ward, age, own limits) it takes what is recorded now. Does not
//! read archived months: a question that reaches into one is refused.

mod fold;
mod report;
mod rows;
mod sweep;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::facts::Facts;
use super::model::{Mode, Rule};
use crate::log::{Log, archived_months};
use crate::vital::Vital;

use fold::Worker;
pub use fold::{PatientTrials, Tally};
pub use report::{Report, WardNumbers, compared};
pub use sweep::{Axis, SweepError, picture, variants};

/// What is asked.
#[derive(Clone)]
pub struct Question {
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

/// How far a backtest is, and its end.
#[derive(Clone, Default)]
pub struct Progress {
    /// Readings so far.
    pub done: Arc<AtomicU64>,
    /// Readings in all, as PostgreSQL estimates; 0 before it is known.
    pub total: Arc<AtomicU64>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// What was found: every patient with their numbers for each rule.
#[derive(Debug, Default)]
pub struct Found {
    /// Readings that were judged.
    pub readings: u64,
    /// Those of whom there were any.
    pub patients: Vec<PatientTrials>,
}

/// Where alerts are written as lines of JSON, of the first rule.
pub type Lines = Arc<Mutex<dyn std::io::Write + Send>>;

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

/// Runs: one worker a core, each with shards of its own.
pub async fn run(
    log: &Log,
    question: Question,
    progress: &Progress,
    lines: Option<Lines>,
) -> Result<Found, BacktestError> {
    refuse_archived(log, &question).await?;
    let question = Question { rules: question.rules.iter().map(at_work).collect(), ..question };
    let facts = Arc::new(facts_of(log.pool(), &question.tenant).await?);
    let shards: Arc<Mutex<Vec<i16>>> = Arc::new(Mutex::new(log.shards().collect()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..cores.min(log.shards().count()) {
        let (pool, question, progress) = (log.pool().clone(), question.clone(), progress.clone());
        let (facts, shards, lines) = (facts.clone(), shards.clone(), lines.clone());
        workers.spawn(async move {
            let mut found = Found::default();
            loop {
                let shard = shards.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(shard) = shard else { return Ok::<Found, BacktestError>(found) };
                let mut worker = Worker::new(&question, shard, &facts, lines.clone());
                worker.run(&pool, &progress).await?;
                found.add(worker.end()?);
            }
        });
    }
    let mut found = Found::default();
    while let Some(done) = workers.join_next().await {
        found.add(done.map_err(|_| BacktestError::Worker)??);
    }
    found.patients.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// A trial asks what would be if it paged, whatever the rule's mode.
fn at_work(rule: &Arc<Rule>) -> Arc<Rule> {
    Arc::new(Rule { mode: Mode::Active, ..(**rule).clone() })
}

impl Found {
    fn add(&mut self, other: Found) {
        self.readings += other.readings;
        self.patients.extend(other.patients);
    }
}

impl Progress {
    fn read(&self, rows: u64) -> Result<(), BacktestError> {
        self.done.fetch_add(rows, Ordering::Relaxed);
        if self.stop.is_cancelled() { Err(BacktestError::Cancelled) } else { Ok(()) }
    }
}

impl Question {
    /// The vitals that any of its rules looks at.
    fn vitals(&self) -> Vec<Vital> {
        Vital::all().filter(|vital| self.rules.iter().any(|rule| rule.concerns(*vital))).collect()
    }

    /// The vital, if the rules look at one only.
    fn only_vital(&self) -> Option<Vital> {
        match *self.vitals() {
            [only] => Some(only),
            _ => None,
        }
    }

    fn wants_suspect(&self) -> bool {
        self.rules.iter().any(|rule| rule.looks_at_devices())
    }
}

async fn refuse_archived(log: &Log, question: &Question) -> Result<(), BacktestError> {
    for month in archived_months(log.pool()).await? {
        if month.span.since() < question.to && question.from < month.span.until() {
            return Err(BacktestError::Archived(month.span.to_string()));
        }
    }
    Ok(())
}

/// The records of a tenant's patients.
async fn facts_of(pool: &PgPool, tenant: &str) -> Result<HashMap<String, Facts>, sqlx::Error> {
    let records: Vec<(String, Option<String>)> =
        sqlx::query_as("select patient_id, record from patient where tenant = $1")
            .bind(tenant)
            .fetch_all(pool)
            .await?;
    let of =
        |record: Option<String>| record.map(|text| Facts::of_record(&text)).unwrap_or_default();
    Ok(records.into_iter().map(|(id, record)| (id, of(record))).collect())
}
