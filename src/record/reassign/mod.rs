//! Reassigning a device: readings that went to the wrong patient are recorded for the right
//! one and retracted where they lay.
//!
//! Guarantees that it is wholly done or wholly undone, whoever dies at whatever step: each step
//! is one commit, what was done is read from the log and from nowhere else, and who no longer
//! holds the job commits nothing. In this order: it is begun, when all was looked at; readings
//! are recorded for the patient; the assignment is corrected, from where there is no way back;
//! readings are retracted, also those that came meanwhile; it is over. Until the assignment
//! is corrected it can be cancelled, and what it recorded is retracted again.
//!
//! Does not guarantee that nobody sees a step: for a while readings lie with both patients. A
//! reading that named no patient, and was on its way while the assignment was corrected, may
//! come where it belonged before: asked again, a reassignment moves it.

mod begin;
mod steps;
mod undo;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgTransaction;
use uuid::Uuid;

use super::devices::event;
use crate::clock::Clock;
use crate::devices::{
    ASSIGNMENT_CORRECTED, Counts, DEVICE_REASSIGNED, REASSIGNMENT_UNDOING, REASSIGNMENT_UNDONE,
    Reassignment, Said, Stage,
};
use crate::event::NO_PATIENT;
use crate::jobs::{Failure, JobHandle, Jobs, Task, Work};
use crate::log::{AppendError, Log, append};

/// Readings of one step.
pub const READINGS_PER_STEP_MAX: i64 = 500;
/// Readings of one reassignment.
pub const READINGS_PER_REASSIGNMENT_MAX: i64 = 200_000;
/// How much later a copy's time may be, where the places before are taken by what was undone.
pub const SHIFT_MICROSECONDS_MAX: i64 = 9;
/// Before it is begun again, when the log could not be asked.
const PAUSE_MS: u64 = 1_000;

/// What is wanted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    /// Of which device.
    pub device_id: String,
    /// To whom.
    pub patient_id: String,
    /// What it measured from here on.
    pub from: DateTime<Utc>,
    /// Until here, not included.
    pub to: DateTime<Utc>,
    /// Why.
    pub reason: String,
    /// Who asks.
    pub by: String,
}

impl Wanted {
    /// As a job takes it.
    pub fn argument(&self) -> Result<Value, sqlx::Error> {
        serde_json::to_value(self).map_err(|error| sqlx::Error::Encode(error.into()))
    }
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
enum StepError {
    /// Whoever asked can mend it.
    #[error("{0}")]
    Told(String),
    /// Somebody cancelled it, and nothing came of it.
    #[error("{0}")]
    Cancelled(&'static str),
    /// The job is another's by now.
    #[error("the job is another one's by now")]
    NotHeld,
    #[error("{0}")]
    Append(#[from] AppendError),
}

impl From<sqlx::Error> for StepError {
    fn from(error: sqlx::Error) -> StepError {
        StepError::Append(error.into())
    }
}

/// Who reassigns devices.
pub struct Reassignments {
    log: Log,
    clock: Clock,
}

impl Reassignments {
    /// In this log.
    pub fn new(log: Log, clock: Clock) -> Reassignments {
        Reassignments { log, clock }
    }
}

impl Work for Reassignments {
    fn run(self: Arc<Self>, task: Task) -> BoxFuture<'static, Result<Value, Failure>> {
        async move {
            let wanted: Wanted = serde_json::from_value(task.argument)
                .map_err(|error| Failure::Told(error.to_string()))?;
            let Task { held, tenant, progress, .. } = task;
            let target = self.log.shard_of(&tenant, &wanted.patient_id);
            let (log, clock) = (self.log.clone(), self.clock.clone());
            let saga = Saga { log, clock, held, tenant, target, wanted, progress };
            match saga.run().await {
                Ok(counts) => {
                    serde_json::to_value(counts).map_err(|error| Failure::Ours(error.to_string()))
                }
                Err(StepError::Told(why)) => Err(Failure::Told(why)),
                Err(StepError::Cancelled(how)) => Err(Failure::Cancelled(how.to_owned())),
                Err(error) => {
                    // Whoever takes it next must not spin.
                    tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
                    Err(Failure::Ours(error.to_string()))
                }
            }
        }
        .boxed()
    }
}

/// One reassignment, for who does it.
struct Saga {
    log: Log,
    clock: Clock,
    held: (Uuid, i32),
    tenant: String,
    /// The shard of the patient.
    target: i16,
    wanted: Wanted,
    progress: JobHandle,
}

/// What a reassignment is about, once it has begun.
struct Begun {
    at: DateTime<Utc>,
    shift_microseconds: i64,
    /// All ids of the device.
    ids: Vec<String>,
}

impl Saga {
    /// From wherever it is to its end.
    async fn run(&self) -> Result<Counts, StepError> {
        let (begun, mut stage) = self.begin().await?;
        loop {
            stage = match stage {
                Stage::Copying => match self.copy(&begun).await {
                    Ok(stage) => stage,
                    // Its month was archived meanwhile: what cannot go on is undone.
                    Err(StepError::Append(AppendError::Archived)) => {
                        self.give_up("a month of these readings was archived", false).await?
                    }
                    Err(error) => return Err(error),
                },
                Stage::Corrected => self.retract(&begun).await?,
                Stage::Undoing(why, cancelled) => self.undo(&begun, why, cancelled).await?,
                Stage::Done(counts) => return Ok(counts),
                Stage::Undone(_, true) => {
                    return Err(StepError::Cancelled("cancelled, and undone as a whole"));
                }
                Stage::Undone(why, false) => {
                    return Err(StepError::Told(format!("undone as a whole: {why}")));
                }
            }
        }
    }

    /// A transaction in which the job is this process's; and whether it was cancelled.
    async fn step(&self, decides: bool) -> Result<(PgTransaction<'static>, bool), StepError> {
        let mut tx = self.log.pool().begin().await?;
        let held = Jobs::hold(&mut tx, self.held, decides).await?;
        held.map(|cancelled| (tx, cancelled)).ok_or(StepError::NotHeld)
    }

    fn said(&self) -> Said {
        let Wanted { patient_id, from, to, reason, by, .. } = self.wanted.clone();
        Said {
            v: 1,
            by,
            patient_id: Some(patient_id),
            reassignment: Some(self.held.0),
            from: Some(from),
            to: Some(to),
            reason: Some(reason),
            ..Said::default()
        }
    }

    /// Says something of the device, which ends a step.
    async fn say(
        &self,
        mut tx: PgTransaction<'static>,
        (kind, at): (&str, DateTime<Utc>),
        said: &Said,
    ) -> Result<(), StepError> {
        let events = [event(&self.tenant, (&self.wanted.device_id, kind), at, said)?];
        let shard = self.log.shard_of(&self.tenant, NO_PATIENT);
        append(&mut tx, shard, &events).await?;
        tx.commit().await?;
        self.log.wake().appended(shard, &events);
        Ok(())
    }

    /// All is recorded for the patient: from here on it only goes forward. Unless somebody
    /// has cancelled it, who cannot come between.
    async fn correct(&self) -> Result<Stage, StepError> {
        let (mut tx, cancelled) = self.step(true).await?;
        if cancelled {
            drop(tx);
            return self.give_up("cancelled", true).await;
        }
        super::devices::turn(&mut tx, &self.tenant).await?;
        self.say(tx, (ASSIGNMENT_CORRECTED, self.wanted.from), &self.said()).await?;
        Ok(Stage::Corrected)
    }

    /// From here on it only goes back.
    async fn give_up(&self, why: &str, cancelled: bool) -> Result<Stage, StepError> {
        let (tx, _) = self.step(true).await?;
        let said = Said { reason: Some(why.to_owned()), cancelled, ..self.said() };
        self.say(tx, (REASSIGNMENT_UNDOING, self.clock.now()), &said).await?;
        Ok(Stage::Undoing(why.to_owned(), cancelled))
    }

    async fn end(&self, counts: Counts) -> Result<Stage, StepError> {
        let (tx, _) = self.step(true).await?;
        let said = Said { counts: Some(counts), ..self.said() };
        self.say(tx, (DEVICE_REASSIGNED, self.clock.now()), &said).await?;
        // What was expected to be done may have been done by others.
        self.progress.total.store(self.progress.done.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(Stage::Done(counts))
    }

    async fn end_undone(
        &self,
        (why, cancelled): (String, bool),
        counts: Counts,
    ) -> Result<Stage, StepError> {
        let (tx, _) = self.step(true).await?;
        let said =
            Said { reason: Some(why.clone()), cancelled, counts: Some(counts), ..self.said() };
        self.say(tx, (REASSIGNMENT_UNDONE, self.clock.now()), &said).await?;
        Ok(Stage::Undone(why, cancelled))
    }

    fn is_this(&self, reassignment: &Reassignment) -> bool {
        reassignment.id == self.held.0
    }

    fn count(&self, readings: usize) {
        self.progress.done.fetch_add(readings as u64, Ordering::Relaxed);
    }
}
