//! What can go wrong with the private PostgreSQL.
//!
//! Guarantees that each message is one sentence: what failed, where, and what to
//! do about it. The source is kept beside it.

use std::io;
use std::path::{Path, PathBuf};

/// The file in the data directory that says where else the cluster is.
pub(super) const LOCATION: &str = "postgres.location";
/// The oldest major version that vitals works with.
pub(super) const MAJOR_MIN: u32 = 14;
/// Why the private PostgreSQL could not be started, joined or stopped.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// A file or directory could not be read, written or given away.
    #[error(
        "could not {action} {}: {source}; check that the user running vitals owns the data \
         directory and that its disk has room",
        path.display()
    )]
    Files {
        /// What was tried, as a verb: "create".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the data directory's start lock and does not let go.
    #[error(
        "another vitals has been starting or stopping the database of {} for {waited_s} s; wait \
         for it, or end it, and start again",
        data_dir.display()
    )]
    Busy {
        /// The data directory.
        data_dir: PathBuf,
        /// How long we waited, in seconds.
        waited_s: u64,
    },
    /// The cluster was kept outside the data directory and is not there any more.
    #[error(
        "the database of {} was kept in {}, which is gone; restore it there, or delete {}/{} \
         to start with an empty database",
        data_dir.display(), home.display(), data_dir.display(), LOCATION
    )]
    Gone {
        /// The data directory.
        data_dir: PathBuf,
        /// Where its cluster was.
        home: PathBuf,
    },
    /// We are root, PostgreSQL refuses to be, and there is nobody to become.
    #[error(
        "PostgreSQL refuses to run as root and this machine has neither a user `postgres` nor \
         `nobody`; add one (useradd --system postgres), run vitals as an ordinary user, or give \
         it a database with --database-url"
    )]
    NoServerUser,
    /// The cluster belongs to another user than the one we are.
    #[error(
        "the database cluster {} belongs to {owner}, so this user cannot run it; run vitals as \
         its owner, or give it away with chown -R",
        cluster.display()
    )]
    Foreign {
        /// The cluster's directory.
        cluster: PathBuf,
        /// Its owner.
        owner: String,
    },
    /// A cluster's directory without a readable `PG_VERSION`.
    #[error(
        "{} is not a PostgreSQL cluster (no readable PG_VERSION); restore it from a backup, or \
         move it away to start with an empty database",
        cluster.display()
    )]
    NotACluster {
        /// The directory.
        cluster: PathBuf,
    },
    /// The cluster was made by a PostgreSQL that is not here.
    #[error(
        "the database cluster {} needs PostgreSQL {needed}, and this machine has {found}{tried}; \
         install PostgreSQL {needed}, or upgrade the cluster with pg_upgrade",
        cluster.display()
    )]
    Version {
        /// The cluster's directory.
        cluster: PathBuf,
        /// The major version that made it.
        needed: u32,
        /// What was found instead, for reading.
        found: String,
        /// What became of the download, for reading; empty if there was none.
        tried: String,
    },
    /// No binaries, and none to be had.
    #[error(
        "no PostgreSQL {} or newer on this machine (it has {found}) and the download from \
         github.com failed ({reason}); install one (apt install postgresql, brew install postgresql), or give \
         vitals a database with --database-url",
        MAJOR_MIN
    )]
    NoBinaries {
        /// What was found instead, for reading.
        found: String,
        /// Why the download failed.
        reason: String,
    },
    /// The server's user was shut out of the data directory after the cluster was made.
    #[error(
        "the user {user} that runs PostgreSQL cannot enter {}; allow it (chmod a+x on it and on \
         the directories above)",
        home.display()
    )]
    Closed {
        /// The cluster's home.
        home: PathBuf,
        /// Who cannot enter.
        user: String,
    },
    /// A program of PostgreSQL's could not be run at all.
    #[error(
        "could not run {} as {user} in {}: {source}; check that this user may read both",
        program.display(), dir.display()
    )]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// As whom.
        user: String,
        /// Its working directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `initdb` failed.
    #[error(
        "initdb could not create the database cluster {}: {reason}; mend that and start again, \
         nothing was kept",
        cluster.display()
    )]
    Init {
        /// The cluster that was to be.
        cluster: PathBuf,
        /// The last thing it said.
        reason: String,
    },
    /// The server ended while it was starting.
    #[error(
        "PostgreSQL did not start on {}: {reason}; its log is {}",
        cluster.display(), log.display()
    )]
    Exited {
        /// The cluster.
        cluster: PathBuf,
        /// The last thing it complained of.
        reason: String,
        /// Where there is more.
        log: PathBuf,
    },
    /// The server lives but does not accept connections in time.
    #[error(
        "PostgreSQL on {} accepted no connection within {waited_s} s ({state}); it was left \
         running, perhaps in recovery: start vitals again to join it, and see its log {}",
        cluster.display(), log.display()
    )]
    NotReady {
        /// The cluster.
        cluster: PathBuf,
        /// How long we waited, in seconds.
        waited_s: u64,
        /// What it last answered.
        state: String,
        /// Where there is more.
        log: PathBuf,
    },
    /// The server answers, but not to us.
    #[error(
        "PostgreSQL in {} refused a connection: {source}; its pg_hba.conf must trust local \
         connections of the superuser `vitals`",
        sockets.display()
    )]
    Refused {
        /// The socket's directory.
        sockets: PathBuf,
        /// What it said.
        source: sqlx::Error,
    },
    /// The server was told to stop and still has not.
    #[error(
        "PostgreSQL on {} was still shutting down after {waited_s} s; it goes on by itself, see \
         its log {}",
        cluster.display(), log.display()
    )]
    StillStopping {
        /// The cluster.
        cluster: PathBuf,
        /// How long we waited, in seconds.
        waited_s: u64,
        /// Where there is more.
        log: PathBuf,
    },
    /// The directory for the socket in the temporary directory is not safely ours.
    #[error(
        "the socket directory {} exists and is not private to the server's user; remove it, or \
         choose a data directory with a shorter path",
        sockets.display()
    )]
    Sockets {
        /// The directory.
        sockets: PathBuf,
    },
    /// Another vitals has started the server anew, with its socket elsewhere.
    #[error(
        "the socket of PostgreSQL has moved from {} to {}, because another vitals with another \
         TMPDIR started it; start this vitals again",
        from.display(), to.display()
    )]
    Moved {
        /// Where it was.
        from: PathBuf,
        /// Where it is.
        to: PathBuf,
    },
    /// The runtime is shutting down.
    #[error("a step was cancelled because the program is ending: {0}")]
    Cancelled(#[from] tokio::task::JoinError),
}

/// Names the file and what was done to it, for `map_err`.
pub(super) fn files<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> EmbeddedError + 'a {
    move |source| EmbeddedError::Files { action, path: path.to_owned(), source }
}
