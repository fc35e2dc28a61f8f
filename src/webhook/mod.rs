//! Webhooks: alerts on their way to the hospital's systems.
//!
//! Guarantees that every alert event that was recorded after an endpoint was made
//! has exactly one delivery row for it, and that a row is tried until the endpoint
//! took it or its schedule ended, over crashes of everything. Does not guarantee
//! that an endpoint sees it once: an answer can be lost. The `webhook-id` is the
//! same at every attempt, so that the receiver can drop repeats.

pub mod deliver;
pub mod deliveries;
pub mod endpoint;
mod fanout;
pub mod guard;
pub mod schedule;
pub mod sign;

pub use fanout::Fanout;

/// Tells the deliverer that there may be something to deliver. A hint, as every
/// wake-up.
#[derive(Clone, Debug, Default)]
pub struct Bell(std::sync::Arc<tokio::sync::Notify>);

impl Bell {
    /// Something may be due.
    pub fn ring(&self) {
        self.0.notify_one();
    }

    async fn heard(&self) {
        self.0.notified().await;
    }
}
