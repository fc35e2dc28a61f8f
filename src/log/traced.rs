//! Readings of which somebody wants to know what becomes of them.
//!
//! Guarantees that what is known of the trace of readings is committed with them, in the
//! statement that appends them: it costs no round trip, and readings without a trace nothing at
//! all. It is no part of the log: the chain does not cover it, the rules read it once
//! (`rules/traced.rs`), and then it is swept away.

use crate::trace::TraceContext;

/// Some events of an append that follow each other, and the step that appends them.
#[derive(Clone, Debug)]
pub struct TracedEvents {
    /// The first of them, counted from 1.
    pub first: i32,
    /// The last of them.
    pub last: i32,
    /// What they are handled in.
    pub context: TraceContext,
}
