//! `vitals`: readings in, an immutable log, folds, rules, signed webhooks out,
//! and questions about any moment.
//!
//! The rooms, in the order in which a heartbeat passes through them. Imports go
//! one way (`tests/suite/tidy.rs` holds this): a room may use what stands above
//! it in this list, and rooms on the same line do not know each other.

pub mod clock;
pub mod config;
pub mod tasks;
pub mod telemetry;

pub mod event;
pub mod vital;

pub mod auth;
pub mod log;

pub mod consumer;
pub mod jobs;
pub mod projection;

pub mod archive;

pub mod limits;

pub mod delivery;
pub mod intake;
pub mod query;
pub mod rules;

pub mod adapter;

pub mod command;
pub mod demo;
pub mod embedded;
