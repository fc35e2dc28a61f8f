//! Where the cluster lives, and as whom its server runs.
//!
//! Guarantees that the cluster of a data directory is always the same one: inside
//! it, or, where the server's user could not enter it, at a place that is written
//! down in the data directory before anything is put there. A place that is
//! written down and gone is an error, never an empty database. Expects the caller
//! to hold the start lock. Blocks: for `spawn_blocking`.

use std::ffi::OsStr;
use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::{EmbeddedError, LOCATION, files};

/// Where root keeps clusters whose data directory the server's user cannot enter.
const ELSEWHERE: &str = "/var/lib/vitals";
/// The longest path of a socket, in bytes: `sun_path` holds 103 on macOS, 107 on Linux.
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// PostgreSQL names its socket after a port, even when it listens on none.
pub(super) const PORT: u16 = 5432;
/// How many places for one data directory are tried, each left by an earlier one.
const PLACES_MAX: u32 = 1000;

/// The user the server runs as when we are root.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Account {
    pub uid: u32,
    pub gid: u32,
    pub name: String,
}

/// The directories of one cluster.
#[derive(Clone, Debug)]
pub(super) struct ClusterDirs {
    /// Holds everything of the server's, 0700.
    pub home: PathBuf,
    /// Where the socket is, 0700.
    pub sockets: PathBuf,
    /// Whom the server runs as, if not as ourselves.
    pub account: Option<Account>,
}

impl ClusterDirs {
    /// Finds or makes the directories for this (canonical) data directory.
    pub(super) fn prepare(data_dir: &Path) -> Result<ClusterDirs, EmbeddedError> {
        let root = rustix::process::geteuid().is_root();
        let (home, account) = match known(data_dir)? {
            Some(home) => {
                let cluster = home.join("data");
                let account = match cluster.try_exists().map_err(files("read", &cluster))? {
                    true => owner(&cluster, root)?,
                    false => unprivileged(root)?,
                };
                (home, account)
            }
            None => {
                let account = unprivileged(root)?;
                (new_home(data_dir, account.as_ref())?, account)
            }
        };
        let dirs = ClusterDirs { sockets: sockets(&home, root), home, account };
        dirs.private(&dirs.home)?;
        dirs.private(&dirs.sockets)?;
        if !dirs.sockets.starts_with(&dirs.home) {
            dirs.refuse_unsafe_sockets()?;
        }
        Ok(dirs)
    }

    /// The cluster itself, PGDATA.
    pub(super) fn cluster(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Where `initdb` works, until its work is whole.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.home.join("data.new")
    }

    /// What the server says before its own log is open.
    pub(super) fn start_log(&self) -> PathBuf {
        self.home.join("start.log")
    }

    /// The server's own logs.
    pub(super) fn log(&self) -> PathBuf {
        self.cluster().join("log")
    }

    /// Shared by everybody who uses the server.
    pub(super) fn users_lock(&self) -> PathBuf {
        self.home.join("users.lock")
    }

    /// Held by the server itself, and by every process of its.
    pub(super) fn server_lock(&self) -> PathBuf {
        self.home.join("server.lock")
    }

    /// Where downloaded binaries go: beside the cluster, where its user may read.
    pub(super) fn downloads(&self) -> PathBuf {
        self.home.with_file_name("postgres-bin")
    }

    /// The name of the server's user, for reading.
    pub(super) fn user(&self) -> String {
        self.account.as_ref().map_or_else(|| "the current user".into(), |who| who.name.clone())
    }

    /// Whether the server's user is shut out, so far as permission bits tell.
    pub(super) fn closed(&self) -> Result<bool, EmbeddedError> {
        match &self.account {
            Some(who) => may_reach(&self.home, who).map(|may| !may),
            None => Ok(false),
        }
        .map_err(files("read", &self.home))
    }

    /// Gives a path to the server's user.
    pub(super) fn give(&self, path: &Path) -> Result<(), EmbeddedError> {
        let Some(who) = &self.account else { return Ok(()) };
        chown(path, Some(who.uid), Some(who.gid)).map_err(files("give away", path))
    }

    /// Makes a directory that only the server's user may enter. One that is there
    /// already and not root's is left alone: it may be somebody else's.
    fn private(&self, dir: &Path) -> Result<(), EmbeddedError> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => self.give(dir),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let meta = std::fs::metadata(dir).map_err(files("read", dir))?;
                // Root's own: an earlier start was killed between making and giving.
                if meta.uid() == 0 { self.give(dir) } else { Ok(()) }
            }
            Err(error) => Err(files("create", dir)(error)),
        }
    }

    /// In the temporary directory anybody may have been there before us.
    fn refuse_unsafe_sockets(&self) -> Result<(), EmbeddedError> {
        let dir = &self.sockets;
        let meta = std::fs::symlink_metadata(dir).map_err(files("read", dir))?;
        let uid = match &self.account {
            Some(who) => who.uid,
            None => rustix::process::geteuid().as_raw(),
        };
        if meta.is_dir() && meta.uid() == uid && meta.permissions().mode() & 0o077 == 0 {
            return Ok(());
        }
        Err(EmbeddedError::Sockets { sockets: dir.clone() })
    }
}

/// Where the cluster of this data directory was put, if it was.
fn known(data_dir: &Path) -> Result<Option<PathBuf>, EmbeddedError> {
    let note = data_dir.join(LOCATION);
    match std::fs::read(&note) {
        Ok(text) => {
            let home = PathBuf::from(OsStr::from_bytes(text.trim_ascii_end()));
            if home.is_dir() {
                return Ok(Some(home));
            }
            Err(EmbeddedError::Gone { data_dir: data_dir.to_owned(), home })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let home = data_dir.join("postgres");
            Ok(home.is_dir().then_some(home))
        }
        Err(error) => Err(files("read", &note)(error)),
    }
}

/// Chooses a place for a new cluster, and writes it down if it is elsewhere.
fn new_home(data_dir: &Path, account: Option<&Account>) -> Result<PathBuf, EmbeddedError> {
    let inside = data_dir.join("postgres");
    let Some(account) = account else { return Ok(inside) };
    if may_reach(data_dir, account).map_err(files("read", data_dir))? {
        return Ok(inside);
    }
    let parent = Path::new(ELSEWHERE);
    let home = allot(parent, data_dir).map_err(files("create", parent))?;
    let (note, draft) = (data_dir.join(LOCATION), data_dir.join("postgres.location.new"));
    std::fs::write(&draft, home.as_os_str().as_bytes()).map_err(files("write", &draft))?;
    std::fs::rename(&draft, &note).map_err(files("write", &note))?;
    tracing::warn!(
        data_dir = %data_dir.display(),
        home = %home.display(),
        user = account.name,
        "the server's user cannot enter the data directory; the database is kept elsewhere"
    );
    Ok(home)
}

/// Makes a directory of its own for this data directory: one that an earlier data
/// directory of the same name has left is never taken over.
fn allot(parent: &Path, data_dir: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    let name = digest(data_dir);
    for n in 1..=PLACES_MAX {
        let home = parent.join(if n == 1 { name.clone() } else { format!("{name}-{n}") });
        match DirBuilder::new().mode(0o700).create(&home) {
            Ok(()) => return Ok(home),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("{name} was used {PLACES_MAX} times; delete what is not needed")))
}

/// Whether a user can enter a directory, by the permission bits all the way up.
/// Access lists are not read; they can only make us more careful than needed.
fn may_reach(dir: &Path, who: &Account) -> io::Result<bool> {
    for dir in dir.ancestors() {
        let meta = std::fs::metadata(dir)?;
        if !may_enter(meta.mode(), meta.uid(), meta.gid(), who) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn may_enter(mode: u32, uid: u32, gid: u32, who: &Account) -> bool {
    let bit = if who.uid == uid {
        0o100
    } else if who.gid == gid {
        0o010
    } else {
        0o001
    };
    mode & bit != 0
}

/// Whom to become for an existing cluster: its owner.
fn owner(cluster: &Path, root: bool) -> Result<Option<Account>, EmbeddedError> {
    let meta: Metadata = std::fs::metadata(cluster).map_err(files("read", cluster))?;
    let me = rustix::process::geteuid().as_raw();
    let name = passwd().into_iter().find(|account| account.uid == meta.uid());
    let name = name.map_or_else(|| format!("user {}", meta.uid()), |account| account.name);
    match (root, meta.uid()) {
        (true, uid) if uid != 0 => Ok(Some(Account { uid, gid: meta.gid(), name })),
        (false, uid) if uid == me => Ok(None),
        _ => Err(EmbeddedError::Foreign { cluster: cluster.to_owned(), owner: name }),
    }
}

/// Whom to become for a new cluster: nobody else, unless we are root.
fn unprivileged(root: bool) -> Result<Option<Account>, EmbeddedError> {
    if !root {
        return Ok(None);
    }
    let accounts = passwd();
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| accounts.iter().find(|account| account.name == *name))
        .map(|account| Some(account.clone()))
        .ok_or(EmbeddedError::NoServerUser)
}

fn passwd() -> Vec<Account> {
    std::fs::read_to_string("/etc/passwd").map(|text| accounts(&text)).unwrap_or_default()
}

/// The users of an `/etc/passwd`, root left out. macOS writes -2 for `nobody`.
fn accounts(passwd: &str) -> Vec<Account> {
    let id = |field: &str| field.parse::<i64>().ok().map(|id| id as u32);
    let account = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = id(fields.nth(1)?)?;
        Some(Account { uid, gid: id(fields.next()?)?, name })
    };
    passwd.lines().filter_map(account).filter(|account| account.uid != 0).collect()
}

/// The directory of the socket: with the cluster if the path is short enough, else
/// in the temporary directory under a name that follows from the cluster's.
fn sockets(home: &Path, root: bool) -> PathBuf {
    let name = format!("vitals-{}", digest(home));
    // Root's TMPDIR may be as closed to the server's user as its home is.
    let temp = if root { PathBuf::from("/tmp") } else { std::env::temp_dir() };
    let (inside, outside) = (home.join("run"), temp.join(&name));
    let fits = |dir: &PathBuf| {
        dir.as_os_str().len() + format!("/.s.PGSQL.{PORT}").len() <= SOCKET_PATH_BYTES_MAX
    };
    [inside, outside].into_iter().find(fits).unwrap_or_else(|| Path::new("/tmp").join(name))
}

/// A short name that follows from a path.
fn digest(path: &Path) -> String {
    let hash = Sha256::digest(path.as_os_str().as_bytes());
    hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(uid: u32, gid: u32) -> Account {
        Account { uid, gid, name: "x".into() }
    }

    #[test]
    fn the_most_specific_permission_decides_who_may_enter() {
        assert!(may_enter(0o40755, 0, 0, &account(101, 104)));
        assert!(!may_enter(0o40700, 0, 0, &account(101, 104)));
        assert!(may_enter(0o40710, 0, 104, &account(101, 104)));
        // The owner's bit counts for the owner, even where others may more.
        assert!(!may_enter(0o40011, 101, 104, &account(101, 104)));
    }

    #[test]
    fn users_are_read_from_passwd_without_root() {
        let text = "root:x:0:0:root:/root:/bin/bash\nbroken\nnobody:*:-2:-2::/var/empty:/x\n\
                    postgres:x:101:104:PostgreSQL,,,:/var/lib/postgresql:/bin/bash\n";
        let names: Vec<_> = accounts(text).into_iter().map(|a| (a.name, a.uid, a.gid)).collect();
        let nobody = u32::MAX - 1;
        assert_eq!(
            names,
            [("nobody".to_owned(), nobody, nobody), ("postgres".to_owned(), 101, 104)]
        );
    }

    #[test]
    fn a_socket_path_that_is_too_long_moves_to_the_temporary_directory() {
        let short = Path::new("/d/postgres");
        assert_eq!(sockets(short, true), short.join("run"));
        let long = PathBuf::from(format!("/{}/postgres", "d".repeat(90)));
        let moved = sockets(&long, true);
        assert!(moved.starts_with("/tmp") && moved.as_os_str().len() < 40);
        assert_eq!(moved, sockets(&long, true));
    }

    #[test]
    fn a_place_left_by_an_earlier_data_directory_is_not_taken_over() {
        let parent = std::env::temp_dir().join(format!("vitals-allot-{}", uuid::Uuid::new_v4()));
        let first = allot(&parent, Path::new("/root/data")).unwrap();
        let second = allot(&parent, Path::new("/root/data")).unwrap();
        assert_ne!(first, second);
        std::fs::remove_dir_all(&parent).unwrap();
    }
}
