//! What can happen to a rule, and what it says to it.
//!
//! Guarantees nothing by itself: these are the arguments and the results of
//! [`super::step()`]. Does not own what it names, so that a reading costs no allocation.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::facts::Facts;
use super::state::{Ground, HeldPage};
use crate::event::AlertData;
use crate::vital::Vital;

/// A reading as rules see it.
#[derive(Clone, Debug)]
pub struct Reading<'a> {
    /// What measured it.
    pub device_id: &'a str,
    /// Its position in the patient's shard.
    pub position: i64,
    /// What was measured.
    pub vital: Vital,
    /// In the canonical unit.
    pub value: f64,
    /// The device's own opinion, 0–1.
    pub quality: Option<f32>,
    /// Implausible.
    pub suspect: bool,
    /// When it was measured.
    pub occurred_at: DateTime<Utc>,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
    /// What was judged before it.
    pub judged: Judged,
}

/// When the newest reading was measured that was judged before, of the same patient and
/// vital; never later than it was recorded. Not known where nothing newer can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Of any device.
    pub of_vital: Option<DateTime<Utc>>,
    /// Of the same device.
    pub of_device: Option<DateTime<Utc>>,
}

impl Reading<'_> {
    /// As the ground of an alert.
    pub fn ground(&self) -> Ground {
        Ground {
            vital: self.vital,
            value: self.value,
            device: self.device_id.to_owned(),
            position: self.position,
            at: self.occurred_at,
        }
    }
}

/// What can happen to a rule. Times are when it was said, by the log.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are named as in the events")]
pub enum Input<'a> {
    /// A reading of the patient.
    Reading(Reading<'a>),
    /// Time has come; see [`super::timers::due`].
    Tick(DateTime<Utc>),
    /// Somebody answered an alert.
    Acknowledged(Uuid),
    /// Somebody wants an alert cleared.
    Cleared { id: Uuid, by: &'a str, at: DateTime<Utc> },
}

/// Whose step it is, and what else is known of them.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Owner.
    pub tenant: &'a str,
    /// Whom it is about.
    pub patient_id: &'a str,
    /// Of which installation they are.
    pub installation: Uuid,
    /// Their record.
    pub facts: &'a Facts,
    /// A rule stands that keeps this one from raising.
    pub inhibited: bool,
    /// The device of this reading is not to be believed: the reading neither raises nor
    /// clears.
    pub device_distrusted: bool,
    /// The silence that holds back what this rule says of them now.
    pub silence: Option<HeldPage>,
}

/// Something to append to the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The event's type.
    pub kind: String,
    /// When it was true.
    pub at: DateTime<Utc>,
    /// What it says.
    pub data: AlertData,
}
