//! The tasks of a process, all of them awaited.
//!
//! Guarantees that a task that panics is noticed: whoever waits for
//! [`Tasks::failed`] hears of it, logs it and ends the process, so that a supervisor
//! starts it anew. Half a server would look like a whole one. Does not restart
//! anything itself.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where tasks are spawned; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    panicked: CancellationToken,
    which: Arc<OnceLock<&'static str>>,
}

impl Tasks {
    /// Runs a task to its end.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (panicked, which) = (self.panicked.clone(), self.which.clone());
        self.tracker.spawn(async move {
            // The task's state is never looked at again.
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                which.get_or_init(|| name);
                panicked.cancel();
            }
        });
    }

    /// Runs a task to its end, or until `stop`, wherever it is then.
    pub fn spawn_until(
        &self,
        name: &'static str,
        stop: &CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = stop.clone();
        self.spawn(name, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Waits until a task has panicked, and says which.
    pub async fn failed(&self) -> &'static str {
        self.panicked.cancelled().await;
        self.which.get().copied().unwrap_or("a task")
    }

    /// Waits until all have ended.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named_and_the_others_are_awaited() {
        let tasks = Tasks::default();
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("the patient one", async move { drop(receiver.await) });
        tasks.spawn("the other one", async { panic!("on purpose") });
        assert_eq!(tasks.failed().await, "the other one");
        drop(sender);
        tasks.ended().await;
    }
}
