//! Backtest: what rules would have raised over the recorded history, before they may
//! page anybody.
//!
//! Guarantees that the same [`super::step()`] judges as live, every reading as if it had
//! come at once, in the order in which it was measured; several rules are tried over one
//! reading of the history; memory is bounded by [`rows::ROWS_HELD_MAX`] and does not grow with
//! the history. Writes nothing.
//!
//! Looks at each rule alone: it is not inhibited by others, nor held by a silent device.
//! Of a patient's record (ward, age, own limits) it takes what is recorded now. Does not
//! read archived months: a question that reaches into one is refused.

mod fold;
mod observed;
mod query;
mod report;
mod rows;
mod run;
mod slice;
mod sweep;
mod trial;

pub use crate::jobs::JobHandle;
pub use fold::{BacktestTotals, PatientTrials, Tally};
pub use query::{BacktestError, BacktestOutput, BacktestQuery};
pub use report::{Report, WardNumbers, compared};
pub use run::{run, run_holding};
pub use sweep::{Axis, SweepError, picture, variants};
pub use trial::{Trial, TrialError, Trials};
