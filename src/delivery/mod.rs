//! Deliveries: alerts on their way to the hospital's systems, by whatever transport.
//!
//! Guarantees that every alert event that was recorded after an endpoint was made
//! has exactly one delivery row for it, and that a row is tried until the endpoint
//! took it or its schedule ended, over crashes of everything. Does not guarantee
//! that an endpoint sees it once: an answer can be lost. The `webhook-id` is the
//! same at every attempt, so that the receiver can drop repeats.

pub mod ack;
mod attempt;
pub mod breaker;
pub mod claim;
pub mod deliver;
pub mod deliveries;
pub mod endpoint;
pub mod events;
mod fanout;
pub mod gauges;
pub mod heartbeat;
mod notice;
pub mod ping;
pub mod queue;
pub mod replay;
pub mod schedule;
pub mod seal;
pub mod secrets;
pub mod state;
pub mod transport;
pub mod webhook;

pub use fanout::Fanout;
pub use queue::DeliveryQueue;
