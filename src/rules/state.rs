//! What a rule remembers of a patient.
//!
//! Guarantees that it can be saved as JSON and loaded again without a difference, and
//! that yesterday's JSON is understood: new fields are optional. The default is worth
//! no row. Bounded: every list in it has a limit.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::vital::Vital;

/// Devices of a patient that are remembered apart; the one silent for longest goes first.
pub const DEVICES_MAX: usize = 16;

/// Of one patient and one rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleState {
    /// The alert that stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Active>,
    /// A run of late readings that would have been an alert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<Missed>,
    /// The condition holds, and its delay is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Run>,
    /// The same among late readings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Run>,
    /// What the leaves remember, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory: Vec<Memory>,
    /// The same three of each device by itself, for a rule that judges them apart; who was
    /// heard of last comes last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<DeviceMemory>,
    /// The version of the rule that `pending`, `late`, `memory` and `apart` are of.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub version: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn is_no(flag: &bool) -> bool {
    !*flag
}

/// What is remembered of one device, where devices are judged apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of the state")]
pub struct DeviceMemory {
    pub device: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Run>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Run>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory: Vec<Memory>,
}

impl RuleState {
    /// From here to [`RuleState::leave`], `pending`, `late` and `memory` are those of this device.
    pub fn enter(&mut self, device: &str) {
        let found = self.apart.iter().position(|part| part.device == device);
        let part = match found {
            Some(n) => self.apart.remove(n),
            None => DeviceMemory { device: device.to_owned(), ..DeviceMemory::default() },
        };
        self.apart.push(part);
        self.exchange();
    }

    /// Puts back what [`RuleState::enter`] took out.
    pub fn leave(&mut self) {
        self.exchange();
        let nothing = |part: &mut DeviceMemory| {
            part.pending.is_none() && part.late.is_none() && part.memory.is_empty()
        };
        self.apart.pop_if(nothing);
        if self.apart.len() > DEVICES_MAX {
            self.apart.remove(0);
        }
    }

    fn exchange(&mut self) {
        if let Some(part) = self.apart.last_mut() {
            std::mem::swap(&mut self.pending, &mut part.pending);
            std::mem::swap(&mut self.late, &mut part.late);
            std::mem::swap(&mut self.memory, &mut part.memory);
        }
    }

    /// What was remembered of the condition counts no more.
    pub fn forget(&mut self) {
        (self.pending, self.late) = (None, None);
        self.memory.clear();
        self.apart.clear();
        self.version = 0;
    }
}

/// A page that is held back, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPage {
    /// The silence.
    pub by: Uuid,
    /// Its end.
    pub until: DateTime<Utc>,
}

/// An alert that stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Active {
    /// Of the alert.
    pub id: Uuid,
    /// When the reading that raised it was measured.
    pub since: DateTime<Utc>,
    /// When the newest reading that broke the limit was measured. A straggler from
    /// before it does not clear.
    pub broken_at: DateTime<Utc>,
    /// When the log learned it, for what follows after a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raised_at: Option<DateTime<Utc>>,
    /// When it was said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said_at: Option<DateTime<Utc>>,
    /// What raised it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<Ground>,
    /// When the log heard last of the device that raised it, where devices are judged apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_at: Option<DateTime<Utc>>,
    /// It no longer holds, and the clearing delay is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovering: Option<Run>,
    /// Nobody was paged when it was raised, because of a silence that is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldPage>,
    /// Somebody answered.
    #[serde(default, skip_serializing_if = "is_no")]
    pub acked: bool,
    /// Steps of the escalation that are behind it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub escalated: u32,
    /// How often it was said again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub said_again: u32,
    /// How often a correction put it on another reading.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub corrected: u32,
    /// Raised by a rule that is on trial: nobody was paged.
    #[serde(default, skip_serializing_if = "is_no")]
    pub shadow: bool,
}

/// An episode among late readings that was recorded as missed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Missed {
    /// When its first reading was measured. An older one belongs to another episode.
    pub since: DateTime<Utc>,
    /// As in [`Active::broken_at`].
    pub broken_at: DateTime<Utc>,
}

/// Readings in a row that say the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// When the first one was measured.
    pub since: DateTime<Utc>,
    /// When the newest one was.
    pub last: DateTime<Utc>,
    /// How many.
    pub samples: u32,
}

impl Run {
    /// Adds a moment. A silence longer than `max_gap` begins anew; what is from before
    /// the run says nothing about it.
    pub fn extend(
        run: &mut Option<Run>,
        at: DateTime<Utc>,
        max_gap: Option<TimeDelta>,
    ) -> &mut Run {
        match run {
            Some(run) if at < run.since => {}
            Some(run) if max_gap.is_none_or(|gap| at - run.last <= gap) => {
                run.last = run.last.max(at);
                run.samples = run.samples.saturating_add(1);
            }
            _ => *run = Some(Run { since: at, last: at, samples: 1 }),
        }
        run.get_or_insert(Run { since: at, last: at, samples: 1 })
    }

    /// A moment that contradicts it ends it; one from within leaves its end.
    pub fn contradict(run: &mut Option<Run>, at: DateTime<Utc>) {
        match run {
            Some(run) if at < run.since => {}
            Some(inner) if at < inner.last => {
                inner.since = inner.last;
                inner.samples = 1;
            }
            _ => *run = None,
        }
    }

    /// How long it is.
    pub fn length(&self) -> TimeDelta {
        self.last - self.since
    }
}

/// The reading that an alert stands on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ground {
    /// What was measured.
    pub vital: Vital,
    /// In the canonical unit.
    pub value: f64,
    /// By what.
    pub device: String,
    /// The reading's position in its shard.
    pub position: i64,
    /// When.
    pub at: DateTime<Utc>,
}

/// What a leaf remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Whether it held, when it was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
    /// When the newest reading that it used was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// Count of the last: a bit a reading, the newest lowest.
    #[serde(default, skip_serializing_if = "is_none_set")]
    pub bits: u64,
    /// Count within: the newest breaking ones, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<DateTime<Utc>>,
    /// Delta: the extreme value of each part of the time, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<(i64, f64)>,
    /// Score: the newest value of each parameter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<(Vital, f64, DateTime<Utc>)>,
    /// Missing and suspect: the devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
}

fn is_none_set(bits: &u64) -> bool {
    *bits == 0
}

/// A device that has sent before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Its newest reading.
    pub newest: Ground,
    /// It is silent, or what it sends is suspect.
    #[serde(default, skip_serializing_if = "is_no")]
    pub bad: bool,
}
