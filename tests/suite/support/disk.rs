//! Directories that the embedded server's user may enter, and disks that can be filled.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::cluster::Cluster;

/// How long a server's last words may take.
const GONE_MAX: Duration = Duration::from_secs(10);

/// A data directory; it goes away with its server, also when a test fails.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("vitals-{name}-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).expect("a directory");
        Dir(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(Cluster::of(&self.0));
        let deadline = Instant::now() + GONE_MAX;
        while std::fs::remove_dir_all(&self.0).is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

/// A disk of its own, in memory: only who is root may make one, and not everywhere.
pub struct Disk(Dir);

impl Disk {
    /// `None`, and loudly, where this machine does not let us.
    pub fn mount(megabytes: u32) -> Option<Disk> {
        let dir = Dir::new("disk");
        let size = format!("size={megabytes}m,mode=755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "vitals-test"])
            .arg(dir.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Disk(dir));
        }
        eprintln!(
            "NOT TESTED: a full disk. It takes a file system, which only root may mount here"
        );
        None
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut filler = std::fs::File::create(self.path().join("filler")).expect("a file");
        let piece = vec![0; 1 << 16];
        while filler.write_all(&piece).is_ok() {}
        while filler.write_all(&[0]).is_ok() {}
    }

    /// Gives it back.
    pub fn free(&self) {
        std::fs::remove_file(self.path().join("filler")).expect("a filled disk");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Cluster::of(self.path()));
        // Lazily: a server that was told to end may have files open for another moment.
        let _unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
