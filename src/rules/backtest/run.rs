//! A backtest's run: slices of the history, each read by every core and then judged.
//!
//! Guarantees that a slice which turns out larger than what may be held is cut and read
//! again, so that the bound holds whatever was expected; and that what is archived is refused
//! before anything is read.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sqlx::PgPool;
use tokio_util::task::AbortOnDropHandle;

use super::fold::{BacktestTotals, Fold, cores};
use super::query::{BacktestError, BacktestOutput, BacktestQuery};
use super::rows::{self, Directory, ROWS_HELD_MAX, ScannedRows};
use super::slice::Slice;
use crate::jobs::JobHandle;
use crate::log::{Log, archived_months};
use crate::rules::facts::Facts;
use crate::rules::model::{Mode, Rule};

/// Runs. Every core reads a part of a slice's pages, then every core judges a part of
/// its patients: the log is read once, in the order in which it lies.
pub async fn run(
    log: &Log,
    question: BacktestQuery,
    progress: &JobHandle,
    lines: Option<BacktestOutput>,
) -> Result<BacktestTotals, BacktestError> {
    run_holding(ROWS_HELD_MAX, log, question, progress, lines).await
}

/// The same with another bound of what is held at one time: the answer is the same.
pub async fn run_holding(
    rows_held_max: usize,
    log: &Log,
    question: BacktestQuery,
    progress: &JobHandle,
    lines: Option<BacktestOutput>,
) -> Result<BacktestTotals, BacktestError> {
    refuse_archived(log, &question).await?;
    let question =
        BacktestQuery { rules: question.rules.iter().map(at_work).collect(), ..question };
    let pool = log.pool();
    let facts = facts_of(pool, &question.tenant).await?;
    let directory = Arc::new(Directory::of(pool, &question, log.shards()).await?);
    let series = rows::which(&question, &directory, log.shards());
    let mut fold = Fold::new(&question, log, &facts, lines).await?;
    // Others ask, too: a question takes half of the connections at most.
    let readers = cores().min(pool.options().get_max_connections() as usize / 2).max(1);
    let expected = async |slice: &Slice| slice.estimate(pool, &question, &series).await;
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
    let most = rows_held_max / readers;
    let mut held: Vec<ScannedRows> =
        (0..readers).map(|_| ScannedRows::new(&directory, most)).collect();
    while let Some((slice, rows)) = slices.pop() {
        if rows > expected_max
            && let Some([first, second]) = slice.halves()
        {
            let (of_first, of_second) = (expected(&first).await?, expected(&second).await?);
            slices.extend([(second, of_second), (first, of_first)]);
            continue;
        }
        let is_whole;
        let sql = slice.sql(&question, &series);
        (held, is_whole) = read(pool, &slice, &sql, held, progress).await?;
        if is_whole {
            // A slice is judged without a pause; others must get their turn.
            tokio::task::block_in_place(|| fold.slice(&mut held, &directory))?;
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
    held: Vec<ScannedRows>,
    progress: &JobHandle,
) -> Result<(Vec<ScannedRows>, bool), BacktestError> {
    let parts = slice.parts(held.len());
    let readers = held.into_iter().zip(parts).map(|(mut held, pages)| {
        let (pool, sql, progress) = (pool.clone(), sql.to_owned(), progress.clone());
        let reader = tokio::spawn(async move {
            let is_whole = held.read(&pool, &sql, &pages, &progress).await?;
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

/// A trial asks what would be if it paged, whatever the rule's mode.
fn at_work(rule: &Arc<Rule>) -> Arc<Rule> {
    Arc::new(Rule { mode: Mode::Active, ..(**rule).clone() })
}

async fn refuse_archived(log: &Log, question: &BacktestQuery) -> Result<(), BacktestError> {
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
