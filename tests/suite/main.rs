//! The tests of the whole: one binary, because linking is what costs time.
//!
//! Each test has a PostgreSQL database of its own and, where it looks from outside,
//! a process of the real binary. They run in parallel and wait for conditions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    dead_code,
    reason = "tests fail loudly, and what they stand on is for all of them"
)]

mod support;

mod chain;
mod commands;
mod crash;
mod dashboards;
mod embedded;
mod floods;
mod guard;
mod hospital;
mod log;
mod pages;
mod plans;
mod projections;
mod questions;
mod readings;
mod rebuild;
mod recordings;
mod streams;
mod tenants;
mod tidy;
mod tokens;
mod verify;
mod webhooks;
