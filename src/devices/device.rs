//! What the events of a device come to.
//!
//! Guarantees that of two assignments from the same moment on the one that was recorded later
//! counts, and that one from an earlier moment on leaves those from later ones as they are; a
//! corrected stretch of time covers what was said of it before. Does not ask anything.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    ASSIGNMENT_CORRECTED, DEVICE_ALIAS, DEVICE_ASSIGNED, DEVICE_REASSIGNED, DEVICE_REGISTERED,
    DEVICE_UNASSIGNED, REASSIGNMENT_BEGUN, REASSIGNMENT_UNDOING, REASSIGNMENT_UNDONE,
};
use crate::vital::Vital;

/// Reassignments of a device, which all are read with it.
pub const REASSIGNMENTS_PER_DEVICE_MAX: usize = 1_000;

/// What is registered of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// What it is, in people's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What it measures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vitals: Option<Vec<Vital>>,
    /// Between two of its readings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_seconds: Option<f64>,
    /// Ids under which it also sends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// How many readings a reassignment moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Recorded for the patient; the others were there before.
    pub copied: i64,
    /// Taken away from where they lay; of what was undone, from the patient again.
    pub retracted: i64,
}

/// What an event of a device says; which of it depends on the event. Version 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// The schema's version.
    pub v: u8,
    /// Who says so.
    pub by: String,
    /// What is registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Registration>,
    /// Whose alias it is; nobody's any more if that is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias_of: Option<String>,
    /// Whom it measures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patient_id: Option<String>,
    /// The reassignment, by its job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reassignment: Option<Uuid>,
    /// The time that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<DateTime<Utc>>,
    /// Its end, not included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<DateTime<Utc>>,
    /// Why, in the words of who asked for it or of what stands in its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// By how much the times of its copies are later, because their places were taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift_microseconds: Option<i64>,
    /// Somebody cancelled it: it is not that it could not be done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
}

/// Who says what is registered, and when the log learned it.
#[derive(Clone, Debug, PartialEq)]
pub struct Registered {
    /// What.
    pub registration: Registration,
    /// Who.
    pub by: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// A stretch of time that a device is at a patient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// At whom.
    pub patient_id: String,
    /// Since when.
    pub from: DateTime<Utc>,
    /// Until when, not included; still if that is open.
    pub to: Option<DateTime<Utc>>,
    /// Who says so.
    pub by: String,
    /// When the log learned it.
    pub recorded_at: DateTime<Utc>,
}

/// How far a reassignment is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Readings are recorded for the patient: there is a way back.
    Copying,
    /// They are taken away from where they lay: there is none.
    Corrected,
    /// What was recorded is taken back, for this reason; whether that is that somebody
    /// cancelled it.
    Undoing(String, bool),
    /// It is over.
    Done(Counts),
    /// It is over, and nothing came of it.
    Undone(String, bool),
}

/// A reassignment of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    /// Its job.
    pub id: Uuid,
    /// When it began, which its events have as their time.
    pub begun_at: DateTime<Utc>,
    /// See [`Said::shift_microseconds`].
    pub shift_microseconds: i64,
    /// How far it is.
    pub stage: Stage,
}

/// A device, as its events have it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    /// What is registered, if anything.
    pub registered: Option<Registered>,
    /// The device of which this id is an alias.
    pub alias_of: Option<String>,
    /// Its reassignments, oldest first.
    pub reassignments: Vec<Reassignment>,
    /// How many events it is made of.
    pub events: usize,
    /// From when on it is at whom; nobody from `None` on.
    changes: BTreeMap<DateTime<Utc>, Option<At>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct At {
    patient_id: String,
    by: String,
    recorded_at: DateTime<Utc>,
}

impl Device {
    /// Takes in the next of its events, which come in the log's order.
    pub(super) fn take(
        &mut self,
        kind: &str,
        (at, recorded_at): (DateTime<Utc>, DateTime<Utc>),
        said: Said,
    ) {
        self.events += 1;
        match kind {
            DEVICE_REGISTERED => {
                let registration = said.device.unwrap_or_default();
                self.registered = Some(Registered { registration, by: said.by, at: recorded_at });
            }
            DEVICE_ALIAS => self.alias_of = said.alias_of,
            DEVICE_ASSIGNED => {
                let Some(patient_id) = said.patient_id else { return };
                self.changes.insert(at, Some(At { patient_id, by: said.by, recorded_at }));
            }
            DEVICE_UNASSIGNED => {
                self.changes.insert(at, None);
            }
            ASSIGNMENT_CORRECTED => {
                if let (Some(patient_id), Some(from), Some(to)) =
                    (said.patient_id, said.from, said.to)
                {
                    let after = self.change_at(to).cloned().unwrap_or_default();
                    self.changes.retain(|change, _| *change < from || *change >= to);
                    let here = At { patient_id, by: said.by, recorded_at };
                    self.changes.insert(from, Some(here));
                    self.changes.entry(to).or_insert(after);
                }
                self.stage(said.reassignment, Stage::Corrected);
            }
            REASSIGNMENT_BEGUN => {
                let Some(id) = said.reassignment else { return };
                let shift_microseconds = said.shift_microseconds.unwrap_or_default();
                let stage = Stage::Copying;
                let begun = Reassignment { id, begun_at: at, shift_microseconds, stage };
                self.reassignments.push(begun);
            }
            DEVICE_REASSIGNED => {
                self.stage(said.reassignment, Stage::Done(said.counts.unwrap_or_default()));
            }
            REASSIGNMENT_UNDOING => {
                let reason = said.reason.unwrap_or_default();
                self.stage(said.reassignment, Stage::Undoing(reason, said.cancelled));
            }
            REASSIGNMENT_UNDONE => {
                let reason = said.reason.unwrap_or_default();
                self.stage(said.reassignment, Stage::Undone(reason, said.cancelled));
            }
            _ => {}
        }
    }

    fn stage(&mut self, of: Option<Uuid>, stage: Stage) {
        if let Some(found) = self.reassignments.iter_mut().find(|one| Some(one.id) == of) {
            found.stage = stage;
        }
    }

    fn change_at(&self, at: DateTime<Utc>) -> Option<&Option<At>> {
        self.changes.range(..=at).next_back().map(|(_, change)| change)
    }

    /// Whom it measured at a moment.
    pub fn patient_at(&self, at: DateTime<Utc>) -> Option<&str> {
        self.change_at(at)?.as_ref().map(|here| &*here.patient_id)
    }

    /// Whether a change at a moment would say what is said of it already.
    pub fn says(&self, at: DateTime<Utc>, patient_id: Option<&str>) -> bool {
        let said = self.changes.get(&at);
        said.is_some_and(|said| said.as_ref().map(|here| &*here.patient_id) == patient_id)
    }

    /// Where it was and is, oldest first.
    pub fn assignments(&self) -> Vec<Assignment> {
        let ends = self.changes.keys().skip(1).copied().map(Some).chain([None]);
        let stretches = self.changes.iter().zip(ends).filter_map(|((from, at), to)| {
            let At { patient_id, by, recorded_at } = at.clone()?;
            Some(Assignment { patient_id, from: *from, to, by, recorded_at })
        });
        stretches.collect()
    }

    /// The reassignment that is under way.
    pub fn under_way(&self) -> Option<&Reassignment> {
        let is_over = |stage: &Stage| matches!(stage, Stage::Done(_) | Stage::Undone(..));
        self.reassignments.iter().find(|one| !is_over(&one.stage))
    }

    /// All ids under which it sends.
    pub fn ids(&self, device_id: &str) -> Vec<String> {
        let aliases = self.registered.iter().flat_map(|r| r.registration.aliases.iter().cloned());
        std::iter::once(device_id.to_owned()).chain(aliases).collect()
    }

    /// Whether anything was said of it as a device of its own.
    pub fn is_known(&self) -> bool {
        self.registered.is_some() || !self.changes.is_empty() || !self.reassignments.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::hours(hour)
    }

    fn device(changes: &[(&str, i64, i64, &str)]) -> Device {
        let mut device = Device::default();
        for (kind, from, to, patient) in changes {
            let said = Said {
                patient_id: Some((*patient).to_owned()),
                from: Some(at(*from)),
                to: Some(at(*to)),
                ..Said::default()
            };
            device.take(kind, (at(*from), at(100)), said);
        }
        device
    }

    #[track_caller]
    fn check(changes: &[(&str, i64, i64, &str)], expected: &[(&str, i64, Option<i64>)]) {
        let device = device(changes);
        let found = device.assignments();
        let hour = |time: DateTime<Utc>| time.timestamp() / 3600;
        let found: Vec<_> =
            found.iter().map(|a| (&*a.patient_id, hour(a.from), a.to.map(hour))).collect();
        assert_eq!(found, expected);
        for (patient, from, to) in expected {
            assert_eq!(device.patient_at(at(*from)), Some(*patient));
            let last = at(to.unwrap_or(90)) - chrono::TimeDelta::microseconds(1);
            assert_eq!(device.patient_at(last), Some(*patient));
        }
    }

    #[test]
    fn a_device_is_at_one_patient_and_being_assigned_elsewhere_ends_that() {
        let (on, off, fix) = (DEVICE_ASSIGNED, DEVICE_UNASSIGNED, ASSIGNMENT_CORRECTED);
        check(&[], &[]);
        check(&[(on, 1, 0, "a")], &[("a", 1, None)]);
        check(&[(on, 1, 0, "a"), (on, 5, 0, "b")], &[("a", 1, Some(5)), ("b", 5, None)]);
        check(&[(on, 1, 0, "a"), (off, 5, 0, "")], &[("a", 1, Some(5))]);
        // Said later of an earlier moment.
        check(&[(on, 5, 0, "b"), (on, 1, 0, "a")], &[("a", 1, Some(5)), ("b", 5, None)]);
        // Said again of the same moment.
        check(&[(on, 1, 0, "a"), (on, 1, 0, "b")], &[("b", 1, None)]);
        // What is corrected covers what was there, and what comes after it is as it was.
        let four = [(on, 1, 0, "a"), (on, 4, 0, "b"), (off, 5, 0, ""), (on, 6, 0, "a")];
        let fixed = |from, to| [&four[..], &[(fix, from, to, "c")]].concat();
        let (a, b) = (("a", 6, None), ("b", 4, Some(5)));
        check(&fixed(2, 3), &[("a", 1, Some(2)), ("c", 2, Some(3)), ("a", 3, Some(4)), b, a]);
        check(&fixed(0, 8), &[("c", 0, Some(8)), ("a", 8, None)]);
        check(&fixed(4, 5), &[("a", 1, Some(4)), ("c", 4, Some(5)), a]);
        check(&[(fix, 1, 2, "c")], &[("c", 1, Some(2))]);
    }

    #[test]
    fn what_is_said_is_read_again() {
        let said =
            Said { v: 1, by: "me".into(), counts: Some(Counts::default()), ..Said::default() };
        let text = serde_json::to_string(&said).unwrap();
        assert_eq!(serde_json::from_str::<Said>(&text).unwrap(), said);
        let bare: Said = serde_json::from_str(r#"{"v":1,"by":"me","patientId":"p"}"#).unwrap();
        assert_eq!((bare.counts, bare.patient_id.as_deref()), (None, Some("p")));
    }
}
