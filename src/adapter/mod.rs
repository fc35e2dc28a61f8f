//! The doors: what speaks a protocol, one folder each.
//!
//! Guarantees that a protocol is known in its own folder only. What a door lets in goes
//! through [`crate::intake`], what it answers comes from [`crate::query`]; an adapter
//! knows no other.

pub mod http;
