//! HTTP: the contract's version 1.
//!
//! Guarantees that nothing is answered without a token but health, metrics and the
//! page itself, and that errors are problem documents. Does not decide anything
//! about vitals: a handler extracts, authorises, asks once, replies.

mod alerts;
pub mod auth;
mod extract;
mod health;
mod history;
mod page;
mod patients;
mod problem;
mod readings;
pub mod router;
mod stream;
mod webhooks;
pub mod wire;

pub use router::{Api, operators, router};
