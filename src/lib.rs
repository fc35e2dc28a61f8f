//! `vitals`: readings in, an immutable log, folds, rules, signed webhooks out,
//! and questions about any moment.
//!
//! The rooms, the lowest first. Imports go one way (`tests/suite/tidy.rs` holds this
//! list to it): a room may use what stands in a paragraph above its own, and rooms of
//! the same paragraph do not know each other.

pub mod clock;
pub mod tasks;
pub mod vital;

pub mod trace;

pub mod event;

pub mod wire;

pub mod auth;
pub mod embedded;
pub mod log;

pub mod consumer;
pub mod devices;
pub mod jobs;
pub mod limits;

pub mod archive;
pub mod projection;

pub mod audit;
pub mod delivery;
pub mod intake;
pub mod query;
pub mod rules;

pub mod export;
pub mod record;

pub mod adapter;
pub mod config;

pub mod demo;
pub mod telemetry;

pub mod command;
