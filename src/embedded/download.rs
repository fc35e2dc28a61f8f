//! Downloads PostgreSQL's programs, for a machine that has none.
//!
//! Guarantees that a directory with a version for its name is whole: it is unpacked
//! under another name and renamed. Does not guarantee that there is a network.

use std::path::{Path, PathBuf};
use std::time::Duration;

use postgresql_embedded::{PostgreSQL, Settings, VersionReq};
use tokio::time::timeout;

/// How long a download may take, some 10 MB with its unpacking.
pub(super) const WAIT: Duration = Duration::from_secs(240);

/// Puts the newest release of this major version into the cache, and returns the
/// directory of its programs; or says why not.
pub(super) async fn fetch(cache: &Path, major: u32, wait: Duration) -> Result<PathBuf, String> {
    let unpacked = cache.join(format!("unfinished-{}", std::process::id()));
    tracing::info!(major, cache = %cache.display(), "no PostgreSQL here, downloading one");
    let fetched = unpack(cache, &unpacked, major, wait).await;
    // What is left of a failed try is of no use, nor is an empty cache.
    let _was_not_there = tokio::fs::remove_dir_all(&unpacked).await;
    let _has_others = tokio::fs::remove_dir(cache).await;
    fetched
}

async fn unpack(
    cache: &Path,
    unpacked: &Path,
    major: u32,
    wait: Duration,
) -> Result<PathBuf, String> {
    // `setup` also runs initdb, as whoever we are, unless this file is there. We
    // make the cluster ourselves, as the server's user.
    let no_cluster = unpacked.join("no-cluster");
    tokio::fs::create_dir_all(&no_cluster).await.map_err(|e| e.to_string())?;
    tokio::fs::write(no_cluster.join("postgresql.conf"), "").await.map_err(|e| e.to_string())?;
    let mut settings = Settings::default();
    // The defaults come with two new temporary directories that are never removed.
    let unused = [Some(settings.data_dir.as_path()), settings.password_file.parent()];
    for unused in unused.into_iter().flatten() {
        tokio::fs::remove_dir(unused).await.map_err(|e| e.to_string())?;
    }
    settings.version = VersionReq::parse(&format!("={major}")).map_err(|e| e.to_string())?;
    settings.installation_dir = unpacked.join("versions");
    settings.password_file = no_cluster.join("postgresql.conf");
    settings.data_dir = no_cluster;
    let mut postgres = PostgreSQL::new(settings);
    // Only this waits for others. A timeout around the file operations above would leave
    // one of them running, to make anew what the caller tidies away.
    timeout(wait, postgres.setup())
        .await
        .map_err(|_| format!("no answer within {} s", wait.as_secs()))?
        .map_err(|e| e.to_string())?;
    let whole = &postgres.settings().installation_dir;
    let name = whole.file_name().ok_or("the archive has no version")?;
    let kept = cache.join(name);
    match tokio::fs::rename(whole, &kept).await {
        // Another vitals was faster with the same release.
        Err(_) if kept.join("bin/postgres").is_file() => {}
        renamed => renamed.map_err(|e| e.to_string())?,
    }
    Ok(kept.join("bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_download_without_an_answer_says_so_and_leaves_nothing() {
        let cache = std::env::temp_dir().join(format!("vitals-fetch-{}", uuid::Uuid::new_v4()));
        let reason = fetch(&cache, 17, Duration::ZERO).await.unwrap_err();
        assert_eq!(reason, "no answer within 0 s");
        assert!(!cache.exists());
    }
}
