//! Who wants the other processes to be told of what was used here, and waits for it.
//!
//! Guarantees that nobody waits longer than [`WAIT_MS_MAX`]. Does not tell anybody: that is
//! `shared.rs`'s.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// How long somebody waits for the others to be told.
const WAIT_MS_MAX: u64 = 500;

/// Who asks, and who waits.
#[derive(Default)]
pub struct Asking {
    soon: Notify,
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
}

/// Those who waited when it was begun to tell the others.
pub struct Waiting(Vec<oneshot::Sender<()>>);

impl Asking {
    /// The others are to be told soon.
    pub fn soon(&self) {
        self.soon.notify_one();
    }

    /// Waits until they were told, or that did not happen in time.
    pub async fn told(&self) {
        let (done, told) = oneshot::channel();
        self.waiting.lock().push(done);
        self.soon();
        // Where nobody tells them, everybody is let through by what is known here.
        tokio::time::timeout(Duration::from_millis(WAIT_MS_MAX), told).await.ok();
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        self.soon.notified().await;
    }

    /// Those who wait now.
    pub fn take(&self) -> Waiting {
        Waiting(std::mem::take(&mut *self.waiting.lock()))
    }
}

impl Waiting {
    /// They need not wait any longer.
    pub fn tell(self) {
        // Who is gone by now did not wait.
        self.0.into_iter().for_each(|done| done.send(()).unwrap_or_default());
    }
}
