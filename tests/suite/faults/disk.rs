//! A disk that is full, and then is not.
//!
//! The disk is a small tmpfs, which only root can mount. Where that is impossible the
//! test says so, and fails where `CI` is set: there it has to be possible.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sqlx::PgPool;

use super::{Load, tell, until_taken};
use crate::hospital::{Hospital, heart_rate, now};
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::server::{Server, scratch_dir};

const DISK_MB: u64 = 400;
const SOON: Duration = Duration::from_secs(60);
/// What a small cluster needs no more of, so that the disk can be small.
const SETTINGS: [(&str, &str); 4] = [
    ("min_wal_size", "32MB"),
    ("max_wal_size", "48MB"),
    ("shared_buffers", "16MB"),
    ("log_min_messages", "panic"),
];

/// A file system of its own; unmounted in the end.
struct Disk(PathBuf);

impl Disk {
    fn mount() -> Option<Disk> {
        let dir = scratch_dir();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_MB}m,mode=0755"), "vitals-test"])
            .arg(&dir)
            .output()
            .is_ok_and(|said| said.status.success());
        mounted.then_some(Disk(dir))
    }

    fn free_bytes(&self) -> u64 {
        let said = rustix::fs::statvfs(&self.0).expect("a file system");
        said.f_bavail * said.f_frsize
    }

    /// Takes all the room there is.
    fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let room = vec![0_u8; self.free_bytes() as usize];
        // What other processes take meanwhile is missing in the end.
        let _as_much_as_fits = std::fs::write(&ballast, room);
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the server on it may still be ending.
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.display());
        }
    }
}

async fn cluster_on(dir: &Path) -> Cluster {
    let cluster = Cluster::start_in(dir, &SETTINGS).await;
    assert!(!dir.join("postgres.location").exists(), "the database is on another disk");
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_ends_with_the_first_room() {
    let Some(disk) = Disk::mount() else {
        let why = "NOT TESTED: what a full disk does. It takes a small file system, and only \
                   root can mount one";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        return eprintln!("{why}");
    };
    let mut cluster = cluster_on(&disk.0).await;
    let proxy = Proxy::before_server(&cluster.options()).await;
    let server = Server::start_in(&scratch_dir(), Some(&proxy.url), &[]).await;
    let hospital = Hospital::new(&server, "ward");
    let load = Load::start(&hospital, 4);
    load.more(20).await;

    let ballast = disk.fill();
    let large = |value: u8| -> Value {
        let reading = |n| heart_rate(&format!("f{}", n % 50), value.into(), now());
        (0..2_000).map(reading).collect()
    };
    let told = eventually("the disk to be full", SOON, async || {
        let told = tell(&hospital, &large(70)).await;
        (told.status != 201).then_some(told)
    })
    .await;
    assert_eq!((told.status, told.again_s), (503, Some(1)), "{}", told.body);
    let live = server.client().get(server.url("/health/live")).send().await.unwrap();
    assert_eq!(live.status(), 200, "it stays up");

    std::fs::remove_file(ballast).unwrap();
    // PostgreSQL ends itself when its own log does not fit; then somebody starts it.
    cluster.up().await;
    until_taken(&hospital, &large(71), SOON).await;
    load.more(20).await;
    let pool = PgPool::connect_with(cluster.options()).await.unwrap();
    let verdict = load.compare(&pool).await;
    // The large ones are in no book.
    assert_eq!((verdict.lost, verdict.doubled, verdict.lies.len()), (0, 0, 0), "{verdict:#?}");
    pool.close().await;
    assert!(server.terminate().await.0.success());
    drop(cluster);
}
