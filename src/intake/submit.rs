//! What every adapter calls with what it has read.
//!
//! Guarantees that nothing is stored of who may not write, or for whom the limits say no;
//! that each item of a batch is stored, a duplicate or rejected, and that it is known
//! which; that an outcome comes after the commit; and that who names no patient is asked for
//! by what the log says of their device then, and by nothing that was remembered. What was not taken as a whole may be
//! handed in again: the log keeps each reading once.

use std::collections::HashSet;
use std::mem::take;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::reading::{Draft, ReadingFault, Rejected, UNASSIGNED, accept, assign};
use super::writers::{Writers, WritersError, Written};
use crate::auth::{Caller, Denied, Scope};
use crate::clock::Clock;
use crate::devices::Device;
use crate::event::Event;
use crate::limits::{Limited, Limits};
use crate::log::Archived;

/// The scope of who hands in readings.
const SCOPE: Scope = Scope::ReadingsWrite;

/// The way in: cheap to clone.
#[derive(Clone)]
pub struct Intake {
    writers: Writers,
    /// `None` where the operator hands in.
    limits: Option<Limits>,
    clock: Clock,
}

/// Items of one sender, judged in their order.
pub struct Batch<'a> {
    caller: &'a Caller,
    /// Judged by.
    now: DateTime<Utc>,
    archived: Archived,
    /// The index of the first item, for who hands in a stream in parts.
    first: usize,
    /// Pointers say the index of an item.
    is_list: bool,
    items: usize,
    events: Vec<Event>,
    /// The index of each event.
    indices: Vec<usize>,
    /// How many of them name no patient.
    unassigned: usize,
    rejected: Vec<Rejected>,
}

/// How long a sender waits for their limits and for room.
#[derive(Clone, Copy)]
pub enum Waiting<'a> {
    /// Not at all: they are told to come again.
    None,
    /// For a bounded time, and not once this is cancelled: a stream runs at the speed of the
    /// limit and of the log.
    Until(&'a CancellationToken),
}

/// What became of the items of a batch: each that is not listed was stored.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many.
    pub stored: usize,
    /// The indices of readings that the log had already.
    pub duplicates: Vec<usize>,
    /// What is wrong with the others.
    pub rejected: Vec<Rejected>,
}

/// Nothing of a batch was acknowledged.
#[derive(Debug)]
pub struct NotTaken {
    /// The cause.
    pub why: Why,
    /// What would have been rejected anyway.
    pub rejected: Vec<Rejected>,
}

/// Why a batch was not taken.
#[derive(Debug)]
pub enum Why {
    /// The sender may not.
    Denied(Denied),
    /// The sender may not now.
    Limited(Limited),
    /// The log cannot take it now.
    Unwritten(WritersError),
}

impl Why {
    /// Stable, and the same by every adapter.
    pub fn code(&self) -> &'static str {
        match self {
            Why::Denied(denied) => denied.code(),
            Why::Limited(limited) => limited.code(),
            Why::Unwritten(error) => error.code(),
        }
    }

    /// For a person, with the mend.
    pub fn detail(&self) -> String {
        match self {
            Why::Denied(denied) => denied.to_string(),
            Why::Limited(limited) => limited.detail.clone(),
            Why::Unwritten(error) => error.to_string(),
        }
    }
}

impl Intake {
    /// The way to these writers, for who keeps to these limits.
    pub fn new(writers: Writers, limits: Option<Limits>, clock: Clock) -> Intake {
        Intake { writers, limits, clock }
    }

    /// A batch to be judged by the present.
    pub fn batch<'a>(&self, caller: &'a Caller) -> Batch<'a> {
        Batch::new(caller, self.clock.now(), self.writers.archived())
    }

    /// From here on a batch is judged by the present: time has passed since it was begun.
    pub fn renew(&self, batch: &mut Batch<'_>) {
        (batch.now, batch.archived) = (self.clock.now(), self.writers.archived());
    }

    /// How many items of a stream may be handed in at once.
    pub fn items_per_part(&self) -> usize {
        self.limits.as_ref().map_or(usize::MAX, Limits::readings_per_part)
    }

    /// Stores a batch, and returns after the commit.
    pub async fn submit(
        &self,
        batch: Batch<'_>,
        waiting: Waiting<'_>,
    ) -> Result<Outcome, NotTaken> {
        let mut batch = batch;
        let settled = self.settle(&mut batch).await;
        let Batch { caller, items, events, indices, rejected, .. } = batch;
        count_rejected(&rejected);
        let written = async {
            settled?;
            self.count(caller, items, waiting).await.map_err(Why::Limited)?;
            match (events.is_empty(), waiting) {
                (true, _) => Ok(Written::default()),
                (_, Waiting::None) => self.writers.store_events(events).await,
                (_, Waiting::Until(stop)) => self.writers.store_when_room(events, stop).await,
            }
            .map_err(Why::Unwritten)
        };
        match written.await {
            Ok(Written { stored, duplicates }) => {
                let duplicates = duplicates.into_iter().map(|nth| indices[nth]).collect();
                Ok(Outcome { stored, duplicates, rejected })
            }
            Err(why) => Err(NotTaken { why, rejected }),
        }
    }

    /// Whether its sender may write at all; gives who names no patient the one of their
    /// device, and rejects what is of other wards than theirs.
    async fn settle(&self, batch: &mut Batch<'_>) -> Result<(), Why> {
        let caller = batch.caller;
        let may = caller.may(SCOPE).and_then(|()| caller.may_still(self.clock.now()));
        may.map_err(Why::Denied)?;
        if batch.unassigned > 0 {
            // Once for all of a batch.
            let device = caller.device.as_deref().unwrap_or_default();
            let device = self.writers.device(&caller.tenant, device).await;
            batch.assign(device.map_err(Why::Unwritten)?.as_ref());
        }
        match caller.wards.of(SCOPE) {
            Some(wards) => self.only_in(&wards, batch).await,
            None => Ok(()),
        }
    }

    /// Rejects what is of patients who lie elsewhere: a reading clears alarms, too.
    async fn only_in(&self, wards: &[String], batch: &mut Batch<'_>) -> Result<(), Why> {
        let mut patients: Vec<&str> = batch.events.iter().map(|e| &*e.patient_id).collect();
        patients.sort_unstable();
        patients.dedup();
        let theirs = self.writers.log().lying_in(&batch.caller.tenant, &patients, wards).await;
        let theirs: HashSet<String> = match theirs {
            Ok(theirs) => theirs.into_iter().collect(),
            Err(error) => {
                tracing::warn!(%error, "nobody says where patients lie: nothing is taken");
                return Err(Why::Unwritten(WritersError::Unavailable));
            }
        };
        batch.reject(
            |event| !theirs.contains(&event.patient_id),
            || {
                ReadingFault::new(
                    "outside_token",
                    "patientId",
                    "this token may not write for this patientId",
                )
            },
        );
        Ok(())
    }

    async fn count(
        &self,
        caller: &Caller,
        items: usize,
        waiting: Waiting<'_>,
    ) -> Result<(), Limited> {
        match (&self.limits, waiting) {
            (None, _) => Ok(()),
            (Some(limits), Waiting::None) => limits.readings(caller, items).await,
            (Some(limits), Waiting::Until(stop)) => {
                limits.readings_when_due(caller, items, stop).await
            }
        }
    }
}

impl<'a> Batch<'a> {
    /// A batch of nothing, to be judged by a moment and the months that take no readings.
    pub fn new(caller: &'a Caller, now: DateTime<Utc>, archived: Archived) -> Batch<'a> {
        Batch {
            caller,
            now,
            archived,
            first: 0,
            is_list: true,
            items: 0,
            events: Vec::new(),
            indices: Vec::new(),
            unassigned: 0,
            rejected: Vec::new(),
        }
    }

    /// Its first item has this index.
    pub fn from(self, first: usize) -> Batch<'a> {
        Batch { first, ..self }
    }

    /// It is one item alone: pointers into it say no index.
    pub(super) fn single(&mut self) {
        self.is_list = false;
    }

    /// Judges an item and adds it.
    pub fn add(&mut self, item: Result<Draft<'_>, ReadingFault>) {
        let Caller { tenant, .. } = self.caller;
        let narrowing = self.caller.narrowing();
        let judged =
            item.and_then(|draft| accept(draft, tenant, narrowing, self.now, &self.archived));
        let index = self.first + self.items;
        self.items += 1;
        match judged {
            Ok(event) => {
                self.unassigned += usize::from(event.patient_id == UNASSIGNED);
                self.events.push(event);
                self.indices.push(index);
            }
            Err(fault) => self.rejected.push(fault.at(index, self.is_list)),
        }
    }

    /// Rejects those that would have been stored and are so.
    fn reject(&mut self, is_so: impl Fn(&Event) -> bool, fault: impl Fn() -> ReadingFault) {
        let (events, indices) = (take(&mut self.events), take(&mut self.indices));
        for (event, index) in events.into_iter().zip(indices) {
            if is_so(&event) {
                self.rejected.push(fault().at(index, self.is_list));
            } else {
                self.events.push(event);
                self.indices.push(index);
            }
        }
        self.rejected.sort_by_key(|rejected| rejected.index);
    }

    /// Gives those that name no patient to whom the device is assigned.
    fn assign(&mut self, device: Option<&Device>) {
        let (events, indices) = (take(&mut self.events), take(&mut self.indices));
        for (mut event, index) in events.into_iter().zip(indices) {
            let assigned = match event.patient_id == UNASSIGNED {
                true => assign(&mut event, device, self.caller.narrowing()),
                false => Ok(()),
            };
            match assigned {
                Ok(()) => {
                    self.events.push(event);
                    self.indices.push(index);
                }
                Err(fault) => self.rejected.push(fault.at(index, self.is_list)),
            }
        }
        self.unassigned = 0;
        self.rejected.sort_by_key(|rejected| rejected.index);
    }

    /// How many items it has.
    pub fn items(&self) -> usize {
        self.items
    }

    /// How many of them may be stored.
    pub fn accepted(&self) -> usize {
        self.events.len()
    }

    /// What is wrong with the others.
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    #[cfg(test)]
    pub(super) fn events(&self) -> &[Event] {
        &self.events
    }
}

/// Counts those of each code; of most batches none.
fn count_rejected(rejected: &[Rejected]) {
    for some in rejected.chunk_by(|one, next| one.code == next.code) {
        metrics::counter!("vitals_readings_rejected_total", "code" => some.first().map_or("", |r| r.code))
        .increment(some.len() as u64);
    }
}
