//! The log: the only writer of `reading`, `non_reading` and `series`, and the truth that
//! every other table can be rebuilt from.
//!
//! Guarantees: what [`Log::append`] acknowledged is committed; within a shard,
//! position order is commit order, so a reader that asks for "position greater
//! than mine" never misses an event that commits late; a reading is stored once
//! for ever; each commit chains a SHA-256 over its rows.
//!
//! Does not guarantee dense positions (a duplicate leaves a gap), nor an order
//! between shards, nor that a wake-up reaches anybody: wake-ups are hints.

pub mod anchor;
mod append;
pub mod archive_reader;
mod archived;
pub mod chain;
pub mod copy;
pub mod exchange;
mod handle;
mod head;
mod incarnation;
mod install;
pub mod month;
pub mod partition;
mod place;
mod read;
pub mod roles;
pub mod row_security;
mod series;
mod settle;
mod timeouts;
mod traced;
mod turn;
mod wake;

pub use append::{AppendError, Appended, EVENTS_PER_APPEND_MAX, append};
pub use archived::{Archived, ArchivedMonth, archived_months};
pub use handle::Log;
pub use head::{head, head_and_time, heads, lock_head, time_at};
pub use incarnation::{Incarnation, Incarnations};
pub use install::LogOpenError;
pub use place::Place;
pub use read::{Window, decode_events, read_non_readings, read_window, read_window_of_tenant};
pub(crate) use timeouts::on_connection;
pub use timeouts::{
    GuardedConnection, ReplyTimeout, answered, answered_soon, is_idle, takes_writes,
};
pub use traced::TracedEvents;
pub use turn::in_turn;
pub use wake::{POLL_MS, Wake, signal_or_poll};
