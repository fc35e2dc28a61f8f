//! Adapters: what speaks a protocol, one folder each.
//!
//! Guarantees that a protocol is known in its own folder only. Readings go in through
//! [`crate::intake`]; what an adapter answers, it asks of the rooms below.

pub mod http;
