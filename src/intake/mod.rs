//! Intake: the one way in for readings, whatever adapter they come by.
//!
//! Guarantees that each item is judged by the same code and has an outcome of its own, that
//! who sends may do so and keeps to their limits, and that what is said to be stored is
//! committed. An adapter (or `vitals import`) makes [`Draft`]s of what it
//! reads, adds them to a [`Batch`] and hands it to [`Intake::submit`]; there is no other
//! way. Knows no protocol.

pub mod file;
mod lines;
mod parse;
mod quality;
mod reading;
mod submit;
mod writers;

pub use file::LINE_BYTES_MAX;
pub use lines::NdjsonLines;
pub use parse::{ParseError, READINGS_PER_REQUEST_MAX, parse};
pub use reading::{AHEAD_SECONDS_MAX, CONTEXT_BYTES_MAX, Draft, ReadingFault, Rejected};
pub use submit::{Batch, Intake, NotTaken, Outcome, Waiting, Why};
pub use writers::{READINGS_QUEUED_MAX, Writers, WritersError, Written};
