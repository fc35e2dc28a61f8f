//! Jobs: what takes longer than an answer may, done by any instance.
//!
//! Guarantees that a job that was accepted is a row: every instance tells the same of it,
//! and one that dies in the middle of it leaves it to another, by a lease that ends and a
//! number that grows with each claim, so that only who claimed it last may write its end.
//! One tenant's jobs do not hold up another's; what waits, runs and is kept is bounded.
//!
//! Does not guarantee that it is done once: it may begin again, and must bear that.

mod job;
mod run;
mod store;

pub use job::{
    Job, JobKind, JobRequest, JobState, Jobs, KEPT_HOURS, KEPT_PER_TENANT_MAX, OPEN_MAX,
    OPEN_PER_TENANT_MAX, RESULT_BYTES_MAX, SubmitError, Unknown,
};
pub use run::{Failure, JobHandle, Runner, Task, Work};
