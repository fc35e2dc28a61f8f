//! Who has read or changed what of whom, when, from where, with which token: in the log, so
//! that its chain covers it.
//!
//! Guarantees that the access of a change is committed before the change is answered, and so
//! outlives a kill right after; that no change is passed over: where it cannot be recorded,
//! it is refused before anything is done; and that a read costs its asker no wait. Reads,
//! and what is told in sums (readings that come in, requests without a good token or over a
//! limit), lie in memory until they are appended, [`BATCH_MS`] or [`SUM_SECONDS`] at most:
//! so much a kill takes along. Who finds the queue full is counted, and the count recorded.
//!
//! Does not guarantee that an access is there once: a commit whose answer was lost is
//! appended again. Does not know what an answer held, only what was asked for.

mod access;
mod recorder;
pub mod syslog;

pub use access::{Access, AccessData, Action, Means, Resource, Who};
pub use recorder::{Audit, BATCH_MS, NotRecorded, Place, Reads, SUM_SECONDS, start};
