//! Makes the cluster on disk, and knows which PostgreSQL made it.
//!
//! Guarantees that a cluster is there whole or not at all: `initdb` works in a
//! directory beside it that is renamed at the end, so what a kill leaves is thrown
//! away. An `initdb` that outlives its vitals keeps the server's lock, so no one
//! throws it away under its hands.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use tokio::task::spawn_blocking;

use super::dirs::ClusterDirs;
use super::error::{EmbeddedError, files};
use super::locate::Binaries;
use super::program::{command, spawning};

/// The superuser's role, and the only one.
pub(super) const ROLE: &str = "vitals";
/// Our settings, put at the end of the cluster's own file.
const SETTINGS: &str = include_str!("postgresql.conf");

/// The major version that made the cluster; none if there is no cluster.
pub(super) fn version(dirs: &ClusterDirs) -> Result<Option<u32>, EmbeddedError> {
    let cluster = dirs.cluster();
    if !cluster.try_exists().map_err(files("read", &cluster))? {
        return Ok(None);
    }
    // Before 10 a major version was two numbers; the first tells enough.
    let text = std::fs::read_to_string(cluster.join("PG_VERSION")).unwrap_or_default();
    match text.trim().split('.').next().and_then(|major| major.parse().ok()) {
        Some(major) => Ok(Some(major)),
        None => Err(EmbeddedError::NotACluster { cluster }),
    }
}

/// Makes a new cluster. The lock is the server's, held by the caller.
pub(super) async fn create(
    dirs: &ClusterDirs,
    binaries: &Binaries,
    lock: &File,
) -> Result<(), EmbeddedError> {
    let (cluster, major) = (dirs.cluster(), binaries.major);
    tracing::info!(cluster = %cluster.display(), major, "creating a database cluster");
    // C.UTF-8 is not on every machine; C orders text the same way, by code point.
    let mut made = initdb(dirs, binaries, lock, "C.UTF-8").await?;
    if made.as_ref().is_err_and(|said| said.contains("invalid locale")) {
        made = initdb(dirs, binaries, lock, "C").await?;
    }
    made.map_err(|said| EmbeddedError::Init { cluster, reason: last(&said) })?;
    let dirs = dirs.clone();
    spawn_blocking(move || finish(&dirs)).await?
}

/// Runs `initdb` once; the inner error is what it said.
async fn initdb(
    dirs: &ClusterDirs,
    binaries: &Binaries,
    lock: &File,
    locale: &str,
) -> Result<Result<(), String>, EmbeddedError> {
    let unfinished = dirs.unfinished();
    match tokio::fs::remove_dir_all(&unfinished).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(files("remove", &unfinished)(error));
        }
        _ => {}
    }
    let program = binaries.dir.join("initdb");
    let mut command: Command = command(dirs, &program);
    command
        .arg("--pgdata")
        .arg(&unfinished)
        .args(["--username", ROLE, "--encoding", "UTF8", "--locale", locale])
        // By code point, as C.UTF-8 does, but by comparing bytes: a third of an append is
        // comparing keys.
        .args(["--lc-collate", "C"])
        .args(["--auth-local", "trust", "--auth-host", "reject", "--data-checksums"])
        .stdin(Stdio::from(lock.try_clone().map_err(files("lock", &dirs.server_lock()))?))
        .kill_on_drop(true);
    let output = command.output().await.map_err(spawning(dirs, &program))?;
    if output.status.success() {
        return Ok(Ok(()));
    }
    Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Adds our settings, and makes the cluster appear under its name.
fn finish(dirs: &ClusterDirs) -> Result<(), EmbeddedError> {
    let (unfinished, cluster) = (dirs.unfinished(), dirs.cluster());
    let conf = unfinished.join("postgresql.conf");
    let append = |path: &Path| {
        let mut file = OpenOptions::new().append(true).open(path)?;
        file.write_all(SETTINGS.as_bytes())?;
        file.sync_all()
    };
    append(&conf).map_err(files("write", &conf))?;
    std::fs::rename(&unfinished, &cluster).map_err(files("create", &cluster))?;
    File::open(&dirs.home).and_then(|home| home.sync_all()).map_err(files("sync", &dirs.home))
}

/// What a program complained of: its last line that says error or fatal, else its
/// last line.
pub(super) fn last(said: &str) -> String {
    let lines = || said.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    lines()
        .find(|line| ["error:", "FATAL:", "PANIC:"].iter().any(|word| line.contains(word)))
        .or_else(|| lines().next())
        .unwrap_or("it said nothing")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_complaint_is_found_among_hints_and_notices() {
        let said = "LOG:  starting\nFATAL:  could not map memory\nHINT:  use less\nLOG:  gone\n";
        assert_eq!(last(said), "FATAL:  could not map memory");
        assert_eq!(last("postgres: could not find\n\n"), "postgres: could not find");
        assert_eq!(last(""), "it said nothing");
    }

    #[test]
    fn durability_is_never_switched_off() {
        for setting in ["fsync = on", "synchronous_commit = on", "full_page_writes = on"] {
            assert!(SETTINGS.lines().any(|line| line == setting), "{setting}");
        }
    }
}
