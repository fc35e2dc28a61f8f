//! Projections: tables folded from the log by SQL.
//!
//! A projection is a folder `projections/NAME/`, and nothing else: `schema.sql` makes its
//! tables, `apply.sql` folds a window of one shard into them and says in its first lines
//! what it follows and its pace, `check.sql` recomputes them from the log by another road
//! and returns what differs, and `carry.sql`, if there is one, takes over what the log no
//! longer holds. `build.rs` makes the list.
//!
//! Guarantees that a table is exactly the fold of its shard up to its checkpoint,
//! whatever the batches were, but for patients that are parked; that changed SQL leads to
//! a rebuild, and that until then the old text goes on folding the old tables. Does not
//! guarantee that a table is up to date: readers compare checkpoint and head.

mod caught_up;
mod check;
mod fold;
mod install;
mod rebuild;
mod self_check;
mod stored;

pub use caught_up::{catch_up, caught_up};
pub use check::{Difference, check, check_patients};
pub use fold::*;
pub use install::{create, install, renew};
pub use rebuild::{RebuildError, Rebuilt, compare, rebuild};
pub use self_check::{check_always, check_some, drifting};
