//! The one loop that everything behind the log runs in: projections, rules,
//! webhook fan-out.
//!
//! Guarantees that a consumer sees a shard's events in order, and that what it
//! does inside the database happens exactly once: the checkpoint moves in the same
//! transaction. Any number of instances may run the same consumer; `SKIP LOCKED`
//! shares the shards between them, and no leader is needed.
//!
//! Does not guarantee when: a wake-up is a hint, a timer stands behind it, and an
//! error is tried again after a pause, visibly, until it is mended. It never skips: an
//! event that cannot be acted on parks its patient, in writing (`park.rs`).

mod contract;
mod park;
mod step;
mod stopped;

pub use contract::{Consumer, ConsumerError, Follows, RULES};
pub(crate) use park::leave_out;
pub use park::{Parked, act_apart, ask_to_resume, counts, parked, resume, resume_asked};
pub use step::{StepResult, Unread, lag, register, run, step, unread};
pub use stopped::{Stopped, stopped};
