//! Rules: a pure fold over a patient's readings that says when to page.
//!
//! Guarantees that live, replay and trials run the same [`step()`], on the readings'
//! own time, and that an alert event is in the log exactly once. Does not deliver
//! anything: the webhook room follows the log.

pub mod backtest;
mod condition;
mod correct;
pub mod evaluate;
pub mod facts;
mod input;
pub mod model;
pub mod news2;
pub mod past;
mod patient;
mod raise;
pub mod registry;
pub mod silences;
mod state;
mod step;
#[cfg(test)]
mod step_tests;
mod stored;
mod table;
pub mod ticks;
mod timers;
mod traced;
pub mod versions;
mod written;
#[cfg(test)]
mod written_tests;
mod written_when;

pub use evaluate::Evaluator;
pub use input::{Context, Input, Judged, Reading, Transition};
pub use model::{Mode, Op, Rule};
pub use raise::RulesConsumer;
pub use registry::RuleSnapshot;
pub use state::RuleState;
pub use step::step;
pub use table::RuleError;
pub use timers::due;
pub use traced::sweep_traces;
