//! The commands of the one binary.
//!
//! Guarantees one clear line on stderr and a non-zero exit for whatever goes wrong,
//! and that stdout holds results only.

mod anchor;
mod api_keys;
mod archive;
mod audited;
mod backtest;
mod cli;
mod database;
mod demo;
mod descriptors;
mod error;
mod import;
mod incarnation;
mod jobs;
mod limits;
mod listen;
mod migrate;
mod parked;
mod progress;
mod reach;
mod rebuild;
mod rebuilds;
mod replay;
mod revoked;
mod secret;
mod serve;
mod signin;
mod tenants;
mod token;
mod traces;
mod verify;

pub use cli::{main, options};
