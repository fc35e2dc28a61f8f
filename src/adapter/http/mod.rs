//! HTTP: the contract's version 1.
//!
//! Guarantees that nothing is answered without a token, a certificate or a session but health,
//! metrics, the static pages, the way to sign in and the API's description, or with the link of
//! one alert; and that errors are problem documents.
//! Does not decide anything about vitals: a handler extracts, authorises, asks once, replies.

mod accessed;
mod ack;
mod alerts;
mod api_keys;
mod assignment;
mod audit;
pub mod availability;
mod body;
pub mod browser;
mod compressed;
pub mod connections;
mod corrections;
pub mod cors;
mod cursor;
mod deliveries;
mod deprecation;
mod devices;
mod diff;
mod entry_point;
mod exports;
mod extract;
mod fields;
mod fronts;
mod health;
mod history;
mod html;
mod jobs;
mod link;
mod ndjson;
mod observed;
pub mod openapi;
mod page;
mod parameters;
mod patients;
mod pipeline;
mod problem;
mod range;
mod ratelimit;
mod readings;
mod record;
mod replay;
mod reply;
pub mod revocation;
mod root;
pub mod router;
mod rules;
mod rules_state;
mod shadow;
pub mod signin;
mod silences;
mod stored;
mod stream;
mod tickets;
mod to_wire;
mod token;
mod traced;
mod trials;
mod wards;
mod webhook_events;
mod webhooks;

pub use router::{Api, operators, router};
