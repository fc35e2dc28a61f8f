//! Rules: a pure fold over a patient's readings that says when to page.
//!
//! Guarantees that live, replay and tests run the same [`step`], on the readings'
//! own time, and that an alert event is in the log exactly once. Does not deliver
//! anything: the webhook room follows the log.

mod model;
pub mod news2;
mod raise;
mod step;

pub use model::{Op, Rule, RuleError, default_rules};
pub use raise::Raise;
pub use step::{Reading, State, Transition, step};
