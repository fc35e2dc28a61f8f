//! Devices: what is registered of them, and to whom they are assigned, then and as it was
//! known then.
//!
//! Guarantees that it is read from the log, which is never behind: an assignment counts from
//! its commit on. Each change is an event of the tenant whose source is the device; from when
//! on it holds is when it occurred, and when it was learnt is when it was recorded. A device
//! is at one patient at most at any moment. Does not write: the room `record` does.

mod device;
mod look_up;

pub use device::{
    Assignment, Counts, Device, REASSIGNMENTS_PER_DEVICE_MAX, Reassignment, Registered,
    Registration, Said, Stage,
};
pub use look_up::{find, find_on};

/// A device's model, vitals, interval and aliases.
pub const DEVICE_REGISTERED: &str = "device_registered";
/// An id under which another device also sends, or no longer does; its source is that id.
pub const DEVICE_ALIAS: &str = "device_alias";
/// From a moment on it measures a patient.
pub const DEVICE_ASSIGNED: &str = "device_assigned";
/// From a moment on it measures nobody.
pub const DEVICE_UNASSIGNED: &str = "device_unassigned";
/// Readings of a time are about to be moved to another patient.
pub const REASSIGNMENT_BEGUN: &str = "reassignment_begun";
/// They are all there too, and the device is said to have been there: no way back.
pub const ASSIGNMENT_CORRECTED: &str = "assignment_corrected";
/// They are taken away from where they were: it is over.
pub const DEVICE_REASSIGNED: &str = "device_reassigned";
/// It cannot be done, or nobody wants it any more: what was recorded is taken back.
pub const REASSIGNMENT_UNDOING: &str = "reassignment_undoing";
/// All of that is taken back: it is over.
pub const REASSIGNMENT_UNDONE: &str = "reassignment_undone";
/// In the stream of the patient: the readings just before it came by a reassignment.
pub const READINGS_REASSIGNED: &str = "readings_reassigned";
