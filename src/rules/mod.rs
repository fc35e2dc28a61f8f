//! Rules: a pure fold over a patient's readings that says when to page.
//!
//! Guarantees that live, replay and trials run the same [`step()`], on the readings'
//! own time, and that an alert event is in the log exactly once. Does not deliver
//! anything: the webhook room follows the log.

pub mod backtest;
mod condition;
pub mod evaluate;
pub mod facts;
mod input;
pub mod model;
pub mod news2;
mod raise;
pub mod registry;
pub mod silences;
mod state;
mod step;
#[cfg(test)]
mod step_tests;
pub mod ticks;
pub mod versions;
mod written;
#[cfg(test)]
mod written_tests;
mod written_when;

pub use evaluate::Evaluator;
pub use input::{Context, Input, Reading, Transition};
pub use model::{Mode, Op, Rule};
pub use raise::Raise;
pub use registry::Book;
pub use state::State;
pub use step::{due, step};
pub use written::RuleError;
