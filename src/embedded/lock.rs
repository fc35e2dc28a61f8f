//! Locks between processes: `flock` on a file.
//!
//! Guarantees that a lock ends with the last process that holds its open file, a
//! `kill -9` included, and that no thread waits inside the kernel: waiting is a poll
//! with a deadline. Does not guarantee anything between two machines that share a
//! network file system.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::time::{Instant, sleep};

/// How often a waiter looks again.
const POLL_MS: u64 = 20;

/// With whom a lock may be shared.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hold {
    /// With others who share it too.
    Shared,
    /// Shared with no other.
    Alone,
}

/// Opens a lock's file; the lock is not held yet.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Takes the lock if it can be had at once.
pub(super) fn attempt(file: &File, hold: Hold) -> io::Result<bool> {
    let operation = match hold {
        Hold::Shared => FlockOperation::NonBlockingLockShared,
        Hold::Alone => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Takes the lock, waiting for others to let go until the time is over.
pub(super) async fn within(file: &File, hold: Hold, wait: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + wait;
    loop {
        if attempt(file, hold)? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        pause().await;
    }
}

/// The pause between two looks.
pub(super) async fn pause() {
    sleep(Duration::from_millis(POLL_MS)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shared_locks_meet_and_keep_out_an_exclusive_one_until_both_are_gone() {
        let path = std::env::temp_dir().join(format!("vitals-lock-{}", uuid::Uuid::new_v4()));
        let (a, b, c) = (open(&path).unwrap(), open(&path).unwrap(), open(&path).unwrap());
        assert!(attempt(&a, Hold::Shared).unwrap());
        assert!(attempt(&b, Hold::Shared).unwrap());
        assert!(!attempt(&c, Hold::Alone).unwrap());
        drop(a);
        assert!(!within(&c, Hold::Alone, Duration::ZERO).await.unwrap());
        drop(b);
        assert!(within(&c, Hold::Alone, Duration::from_secs(5)).await.unwrap());
        assert!(!attempt(&open(&path).unwrap(), Hold::Shared).unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}
