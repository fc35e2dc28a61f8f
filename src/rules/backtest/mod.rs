//! Backtest: what rules would have raised over the recorded history, before they may
//! page anybody.
//!
//! Guarantees that the same [`super::step()`] judges as live, every reading as if it had
//! come at once, in the order in which it was measured; several rules are tried over one
//! reading of the history; memory is bounded by [`ROWS_HELD_MAX`] and does not grow with
//! the history. Writes nothing.
//!
//! Looks at each rule alone: it is not inhibited by others, nor held by a silent device.
//! Of a patient's record (ward, age, own limits) it takes what is recorded now. Does not
//! read archived months: a question that reaches into one is refused.

mod fold;
mod observed;
mod report;
mod rows;
mod slice;
mod sweep;
mod trial;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio_util::task::AbortOnDropHandle;

use super::facts::Facts;
use super::model::{Mode, Per, Rule};
pub use crate::jobs::Progress;
use crate::log::copy::Broken;
use crate::log::{Log, archived_months};
use crate::vital::Vital;

use fold::Fold;
pub use fold::{PatientTrials, Tally};
pub use report::{Report, WardNumbers, compared};
use rows::{Held, Numbers, ROWS_HELD_MAX};
use slice::Slice;
pub use sweep::{Axis, SweepError, picture, variants};
pub use trial::{Trial, TrialError, Trials};

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

impl From<Broken> for BacktestError {
    fn from(_: Broken) -> BacktestError {
        BacktestError::Format("COPY sent what is not its binary form")
    }
}

/// Runs. Every core reads a part of a slice's pages, then every core judges a part of
/// its patients: the log is read once, in the order in which it lies.
pub async fn run(
    log: &Log,
    question: Question,
    progress: &Progress,
    lines: Option<Lines>,
) -> Result<Found, BacktestError> {
    run_holding(ROWS_HELD_MAX, log, question, progress, lines).await
}

/// The same with another bound of what is held at one time: the answer is the same.
pub async fn run_holding(
    rows_held_max: usize,
    log: &Log,
    question: Question,
    progress: &Progress,
    lines: Option<Lines>,
) -> Result<Found, BacktestError> {
    refuse_archived(log, &question).await?;
    let question = Question { rules: question.rules.iter().map(at_work).collect(), ..question };
    let pool = log.pool();
    let facts = facts_of(pool, &question.tenant).await?;
    let numbers = Numbers::of(pool, &question).await?;
    // Where devices are judged apart, a row says which it is of.
    let apart = question.rules.iter().any(|rule| rule.per == Per::Device);
    let names_devices = lines.is_some() || apart;
    let mut fold = Fold::new(&question, log, &facts, lines).await?;
    // Others ask, too: a question takes half of the connections at most.
    let readers = cores().min(pool.options().get_max_connections() as usize / 2).max(1);
    let expected = async |slice: &Slice| slice.estimate(pool, &question, log.shards()).await;
    // Expectations are rough, and each reader has a part of the room.
    let expected_max = rows_held_max as u64 / 4 * 3;
    let mut slices = Vec::new();
    for mut slice in Slice::all(pool, &question).await? {
        let rows = expected(&slice).await?;
        progress.total.fetch_add(rows, Ordering::Relaxed);
        if rows > expected_max {
            slice.look_where(pool, readers).await?;
        }
        slices.push((slice, rows));
    }
    // From the last to the first, for they are taken from the end.
    slices.reverse();
    let (patients, devices) = (Arc::default(), Arc::default());
    let most = rows_held_max / readers;
    let mut held: Vec<Held> = (0..readers).map(|_| Held::new(&patients, &devices, most)).collect();
    while let Some((slice, rows)) = slices.pop() {
        if rows > expected_max
            && let Some([first, second]) = slice.halves()
        {
            let (of_first, of_second) = (expected(&first).await?, expected(&second).await?);
            slices.extend([(second, of_second), (first, of_first)]);
            continue;
        }
        let is_whole;
        let sql = slice.sql(&question, names_devices, log.shards());
        (held, is_whole) = read(pool, &slice, &sql, &numbers, held, progress).await?;
        if is_whole {
            // A slice is judged without a pause; others must get their turn.
            tokio::task::block_in_place(|| fold.slice(&mut held, &patients, &devices))?;
        } else {
            // Not what was expected: by what came of it, then.
            let parts = slice.cut(rows::middle(&held)).or_else(|| slice.first_moment());
            let [first, second] = parts.ok_or(BacktestError::TooMany)?;
            slices.extend([(second, 0), (first, 0)]);
        }
    }
    let mut found = fold.end()?;
    found.patients.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// Reads a slice, each reader a part. `false` when it is too large for one of them.
async fn read(
    pool: &PgPool,
    slice: &Slice,
    sql: &str,
    numbers: &Numbers,
    held: Vec<Held>,
    progress: &Progress,
) -> Result<(Vec<Held>, bool), BacktestError> {
    let parts = slice.parts(held.len());
    let readers = held.into_iter().zip(parts).map(|(mut held, pages)| {
        let (pool, sql, progress) = (pool.clone(), sql.to_owned(), progress.clone());
        let numbers = numbers.clone();
        let reader = tokio::spawn(async move {
            let is_whole = held.read(&pool, &sql, &pages, &numbers, &progress).await?;
            Ok::<_, BacktestError>((held, is_whole))
        });
        // Who no longer waits for it no longer wants it.
        AbortOnDropHandle::new(reader)
    });
    let readers: Vec<_> = readers.collect();
    let (mut all, mut whole) = (Vec::with_capacity(readers.len()), true);
    for reader in readers {
        let (held, is_whole) = reader.await.map_err(|_| BacktestError::Worker)??;
        all.push(held);
        whole &= is_whole;
    }
    if !whole {
        let rows = all.iter().flat_map(|held| &held.rows).map(Vec::len).sum::<usize>();
        progress.done.fetch_sub(rows as u64, Ordering::Relaxed);
    }
    Ok((all, whole))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A trial asks what would be if it paged, whatever the rule's mode.
fn at_work(rule: &Arc<Rule>) -> Arc<Rule> {
    Arc::new(Rule { mode: Mode::Active, ..(**rule).clone() })
}

/// Counts what was read; an error when it is not to go on.
fn have_read(progress: &Progress, rows: u64) -> Result<(), BacktestError> {
    progress.done.fetch_add(rows, Ordering::Relaxed);
    if progress.stop.is_cancelled() { Err(BacktestError::Cancelled) } else { Ok(()) }
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

    fn looks_at_devices(&self) -> bool {
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
