//! What every test stands on: a database of its own, the real binary, a receiver
//! that verifies for itself, and waiting for conditions instead of for time.

pub mod cluster;
pub mod collector;
pub mod described;
pub mod disk;
pub mod http;
pub mod postgres;
pub mod proxy;
pub mod receiver;
pub mod rogue;
pub mod server;
pub mod upload;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use server::{cli, scratch_dir};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `condition` gives something, and fails with `what` when that takes
/// longer than `limit`.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> F,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} for {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A file that its owner alone may read, as secrets have to be.
pub fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).expect("a file");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).expect("a mode");
}

/// Lets time pass where time itself is what a test does to the program: the delay of a
/// slow line, how long a process stays frozen. Never to wait for something to be done.
pub async fn pass_time(time: Duration) {
    tokio::time::sleep(time).await;
}

/// A statement that takes twelve seconds, where its time is what a test is about.
pub const TWELVE_SECONDS: &str = "select pg_sleep(12)::text";

/// A recording. They are not part of this repository.
pub fn data(path: &str) -> PathBuf {
    let root = match std::env::var_os("VITALS_TEST_DATA") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
    };
    let file = root.join(path);
    assert!(
        file.exists(),
        "the recording {path} is not in {}: set VITALS_TEST_DATA; CONTRIBUTING.md, \"The \
         recordings\", says where they come from",
        root.display()
    );
    file
}

/// An input that once went wrong. They are not part of this repository, and lie beside the
/// recordings.
pub fn case(path: &str) -> PathBuf {
    let root = match std::env::var_os("VITALS_TEST_DATA") {
        Some(root) => PathBuf::from(root).join("../cases"),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases"),
    };
    let file = root.join(path);
    assert!(
        file.exists(),
        "{} is not there: see CONTRIBUTING.md, \"The recordings\"",
        file.display()
    );
    file
}
